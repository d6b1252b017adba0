package dialect

import (
	"testing"

	"github.com/keytoll/keytoll/caddymodule/access"
)

// The answer to used-up credits says how many are needed and left, none
// included, in every dialect's own case.
func TestCreditsInTheAnswer(t *testing.T) {
	for fields, want := range map[string]string{
		"snake": `{"error":{"code":"insufficient_credits","message":"Not enough credits for this request","details":{"credits_available":0,"credits_needed":5}}}` + "\n",
		"camel": `{"error":{"code":"insufficient_credits","message":"Not enough credits for this request","details":{"creditsAvailable":0,"creditsNeeded":5}}}` + "\n",
	} {
		c, err := (&Dialect{Fields: fields}).Compile()
		if err != nil {
			t.Fatal(err)
		}
		if r := c.Refusal(access.NoCredits); r.Status != 402 || !r.Dynamic {
			t.Errorf("%+v", r)
		}
		if got := string(c.RefusalBody(access.NoCredits, Values{CreditsNeeded: 5})); got != want {
			t.Errorf("%s", got)
		}
	}
}
