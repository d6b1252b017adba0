package caddymodule

import (
	"sync/atomic"

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
	descBypassed    = desc("bypassed_total", "Requests that went without credits, with a provider key of the caller's.")
	descVerified    = desc("provider_verifications_total", "Provider keys that were put to their provider, by what became of it.", "result")
	descStoreErrors = desc("store_errors_total", "Reads and writes of the store and of counters that failed.")

	descCredits  = desc("credits_total", "Credits that requests were charged, that were given back, and that were refused.", "op")
	descQuotas   = desc("quota_refusals_total", "Requests that a quota refused.")
	descInFlight = desc("requests_in_flight", "Admitted requests with a key that are under way.")
	descObserved = desc("observed_total", "Requests that rules which are only observed would have refused.")
	descCounters = desc("counters", "Slots in use in the file of counters.")
	descFailing  = desc("counters_failing", "Whether the file of counters is in trouble: 1 or 0.")
	descWaiting  = desc("usage_waiting", "Minutes of usage that wait for the store.")
)

// descriptions are all metrics. Those of metering are told if a gate meters.
var descriptions = []*prometheus.Desc{
	descRequests, descDecision, descKeys, descTenants, descBuckets, descBypassed, descVerified, descStoreErrors,
	descCredits, descQuotas, descInFlight, descObserved, descCounters, descFailing, descWaiting,
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("caddy_keytoll_"+name, help, labels, nil)
}

// Describe sends the descriptions of all metrics.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descriptions {
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
	ch <- prometheus.MustNewConstMetric(descBypassed, prometheus.CounterValue, float64(e.Counts.Bypassed.Load()))
	for i, result := range [...]string{engine.VerdictValid: "valid", engine.VerdictInvalid: "invalid", engine.VerdictUnknown: "unknown"} {
		ch <- prometheus.MustNewConstMetric(descVerified, prometheus.CounterValue, float64(e.Counts.Verified[i].Load()), result)
	}
	ch <- prometheus.MustNewConstMetric(descInFlight, prometheus.GaugeValue, float64(e.Streams.Count()))
	if m := c.app.metering; m != nil { // set before the engine was
		collectMetering(ch, m)
	}
}

func collectMetering(ch chan<- prometheus.Metric, m *engine.Metering) {
	t := &m.Totals
	for _, op := range []struct {
		name   string
		amount *atomic.Int64
	}{{"charged", &t.Charged}, {"refunded", &t.Refunded}, {"refused", &t.Refused}} {
		ch <- prometheus.MustNewConstMetric(descCredits, prometheus.CounterValue, float64(op.amount.Load())/float64(access.Credit), op.name)
	}
	failing := 0.0
	if m.Counters.Err() != nil {
		failing = 1
	}
	for _, v := range []struct {
		desc *prometheus.Desc
		kind prometheus.ValueType
		now  float64
	}{
		{descQuotas, prometheus.CounterValue, float64(t.Quota.Load())},
		{descObserved, prometheus.CounterValue, float64(t.Observed.Load())},
		{descCounters, prometheus.GaugeValue, float64(m.Counters.Len())},
		{descFailing, prometheus.GaugeValue, failing},
		{descWaiting, prometheus.GaugeValue, float64(m.Usage.Waiting())},
	} {
		ch <- prometheus.MustNewConstMetric(v.desc, v.kind, v.now)
	}
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
