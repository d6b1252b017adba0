package usage

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"
)

// DefaultType is the type of the events.
const DefaultType = "keytoll.usage"

// Event is a CloudEvent 1.0: what one flush counted of one series in one minute.
// A series of a minute may have several; their sums are exact.
type Event struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"` // the same each time the event is sent; unique with Source
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject"` // the tenant
	Time            time.Time `json:"time"`    // beginning of the minute, UTC
	DataContentType string    `json:"datacontenttype"`
	Data            EventData `json:"data"`
}

// EventData is what an Event says.
type EventData struct {
	Tenant   string      `json:"tenant"`
	Key      string      `json:"key,omitempty"`
	Route    string      `json:"route,omitempty"`
	Class    string      `json:"class"`
	Bypassed bool        `json:"bypassed"`
	Observed bool        `json:"observed"`
	Requests int64       `json:"requests"`
	Credits  json.Number `json:"credits"` // whole ones, with up to 6 decimals
	BytesIn  int64       `json:"bytes_in"`
	BytesOut int64       `json:"bytes_out"`
	Seconds  json.Number `json:"seconds"` // that the requests took, with up to 6 decimals
}

// event makes the Event of a stored row of a minute.
func (e *Exporter) event(key []byte, minute uint32, s *Series, v *Values) Event {
	sum := sha256.New()
	sum.Write(e.o.Recorder.id[:])
	sum.Write(key)
	return Event{
		SpecVersion: "1.0", ID: hex.EncodeToString(sum.Sum(nil)[:16]), Source: e.o.Source, Type: e.o.Type,
		Subject: s.Tenant, Time: time.Unix(int64(minute)*60, 0).UTC(), DataContentType: "application/json",
		Data: EventData{
			Tenant: s.Tenant, Key: KeyName(s.Key), Route: s.Route, Class: s.Class.String(),
			Bypassed: s.Flags&Bypassed != 0, Observed: s.Flags&Observed != 0,
			Requests: v.Requests, Credits: json.Number(decimal(v.Credits)),
			BytesIn: v.BytesIn, BytesOut: v.BytesOut, Seconds: json.Number(decimal(v.Micros)),
		},
	}
}

// decimal writes millionths as a number of units: 1250000 is 1.25.
func decimal(micros int64) string {
	sign, n := "", uint64(micros)
	if micros < 0 {
		sign, n = "-", -n
	}
	out := sign + strconv.FormatUint(n/1e6, 10)
	if f := n % 1e6; f != 0 {
		digits := strconv.FormatUint(1e6+f, 10)[1:]
		for digits[len(digits)-1] == '0' {
			digits = digits[:len(digits)-1]
		}
		out += "." + digits
	}
	return out
}
