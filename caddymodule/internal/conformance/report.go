package conformance

import (
	"fmt"
	"io"
)

// Difference is one thing that is not as the file says.
type Difference struct {
	Where string `json:"where"` // status, header <Name>, body, body/<JSON pointer>, save <variable>, …
	Want  string `json:"want"`
	Got   string `json:"got"`
}

// StepResult is what came of one step. One without differences that was not
// skipped is as the file says.
type StepResult struct {
	Name        string       `json:"name"`
	Sentence    string       `json:"sentence,omitempty"`
	Differences []Difference `json:"differences,omitempty"`
	Skipped     string       `json:"later,omitempty"` // where the step belongs, if it was not sent
}

// Report is what came of one run. No secret of the file is in it.
type Report struct {
	Name   string       `json:"name,omitempty"`
	Source string       `json:"source,omitempty"`
	Steps  []StepResult `json:"steps"`
}

// OK reports whether nothing differs. Steps that were skipped do not count.
func (r *Report) OK() bool {
	_, different, _ := r.Count()
	return different == 0
}

// Count returns how many steps are as the file says, differ, and were skipped.
func (r *Report) Count() (same, different, later int) {
	for _, s := range r.Steps {
		switch {
		case s.Skipped != "":
			later++
		case len(s.Differences) > 0:
			different++
		default:
			same++
		}
	}
	return same, different, later
}

// Write writes the report for people: a line for each step, one for each
// difference, and the counts. Its error is w's.
func (r *Report) Write(w io.Writer) error {
	for _, s := range r.Steps {
		line := "same   " + s.Name
		switch {
		case s.Skipped != "":
			line = fmt.Sprintf("later  %s (%s)", s.Name, s.Skipped)
		case len(s.Differences) > 0:
			line = "differ " + s.Name
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
		if len(s.Differences) > 0 && s.Sentence != "" {
			if _, err := fmt.Fprintf(w, "       the document says: %s\n", s.Sentence); err != nil {
				return err
			}
		}
		for _, d := range s.Differences {
			if _, err := fmt.Fprintf(w, "       %s: want %s, got %s\n", d.Where, d.Want, d.Got); err != nil {
				return err
			}
		}
	}
	same, different, later := r.Count()
	_, err := fmt.Fprintf(w, "%d the same, %d different, %d later\n", same, different, later)
	return err
}
