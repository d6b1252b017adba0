package caddymodule

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/engine"
)

// collector shows the engine's own counters to each configuration's registry,
// so that a reload does not set them back and a request touches no label map.
type collector struct{ app *App }

var (
	descRequests    = desc("requests_total", "Requests by what became of them.", "reason")
	descDecision    = desc("decision_seconds", "Time to decide on a request, of one in 64.")
	descKeys        = desc("keys", "Keys by status.", "state")
	descTenants     = desc("tenants", "Tenants by status.", "state")
	descBuckets     = desc("buckets", "Token buckets in the shared table.")
	descStoreErrors = desc("store_errors_total", "Reads of the store that failed.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_keytoll_"+name, help, labels, nil)
}

// Describe sends the descriptions of all metrics.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descRequests, descDecision, descKeys, descTenants, descBuckets, descStoreErrors} {
		ch <- d
	}
}

// Collect reads the engine; before it is open there is nothing to tell.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	e := c.app.engine.Load()
	if e == nil {
		return
	}
	for i := range e.Counts.Requests {
		ch <- prometheus.MustNewConstMetric(descRequests, prometheus.CounterValue,
			float64(e.Counts.Requests[i].Load()), access.Reason(i).String())
	}
	collectDecisions(ch, &e.Counts.Decisions)
	n := e.Index.Counts()
	for _, s := range []access.Status{access.StatusActive, access.StatusDisabled, access.StatusRevoked} {
		ch <- prometheus.MustNewConstMetric(descKeys, prometheus.GaugeValue, float64(n.Keys[s]), s.String())
	}
	for _, s := range []access.Status{access.StatusActive, access.StatusSuspended} {
		ch <- prometheus.MustNewConstMetric(descTenants, prometheus.GaugeValue, float64(n.Tenants[s]), s.String())
	}
	ch <- prometheus.MustNewConstMetric(descBuckets, prometheus.GaugeValue, float64(e.Limiter.Len()))
	ch <- prometheus.MustNewConstMetric(descStoreErrors, prometheus.CounterValue, float64(e.Counts.StoreErrors.Load()))
}

func collectDecisions(ch chan<- prometheus.Metric, h *engine.Histogram) {
	buckets := make(map[float64]uint64, len(engine.Bounds))
	var n uint64
	for i, b := range engine.Bounds {
		n += h.Buckets[i].Load()
		buckets[b.Seconds()] = n
	}
	n += h.Buckets[len(engine.Bounds)].Load()
	ch <- prometheus.MustNewConstHistogram(descDecision, n, float64(h.Sum.Load())/1e9, buckets)
}
