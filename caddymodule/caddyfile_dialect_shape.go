package caddymodule

import (
	"slices"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
)

// reasons reads what is answered for one or more reasons.
//
//	error <reason...> {
//		status <n>
//		code <code>
//		message <text>
//		detail <member> <text>                # with {key_id}, {expired_at}, {header} and others
//	}
func (p *dialectParser) reasons(d *caddyfile.Dispenser) error {
	labels := d.RemainingArgs()
	if len(labels) == 0 {
		return d.Err("error needs one or more reasons: error missing { message \"An API key is required\" }")
	}
	for _, label := range labels {
		if err := single(d, p.once, "error "+label); err != nil {
			return err
		}
	}
	var a dialect.Answer
	p.try(d, labels, a)
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := answerOption(d, &a, once); err != nil {
			return err
		}
		p.try(d, labels, a)
	}
	p.merge(labels, a)
	return nil
}

func answerOption(d *caddyfile.Dispenser, a *dialect.Answer, once map[string]bool) error {
	if word := d.Val(); word != "detail" {
		if err := single(d, once, word); err != nil {
			return err
		}
	}
	switch d.Val() {
	case "status":
		return number(d, &a.Status)
	case "code":
		return word1(d, &a.Code)
	case "message":
		return word1(d, &a.Message)
	case "detail":
		args := d.RemainingArgs()
		if len(args) != 2 {
			return d.Err("detail needs a member and its text: detail key_id {key_id}")
		}
		if err := single(d, once, "detail "+args[0]); err != nil {
			return err
		}
		if a.Details == nil {
			a.Details = make(map[string]string)
		}
		a.Details[args[0]] = args[1]
		return nil
	}
	return unrecognized(d, "status", "code", "message", "detail")
}

// try marks the line if the answer as read so far makes the dialect wrong.
func (p *dialectParser) try(d *caddyfile.Dispenser, labels []string, a dialect.Answer) {
	was := p.dl
	p.dl = was.Clone()
	p.merge(labels, a)
	p.mark(d)
	p.dl = was
}

// merge changes the answers of reasons. Details are replaced as a whole.
func (p *dialectParser) merge(labels []string, a dialect.Answer) {
	if p.dl.Reasons == nil {
		p.dl.Reasons = make(map[string]*dialect.Answer)
	}
	for _, label := range labels {
		out := a
		if old := p.dl.Reasons[label]; old != nil {
			out = *old
			if a.Status != 0 {
				out.Status = a.Status
			}
			if a.Code != "" {
				out.Code = a.Code
			}
			if a.Message != "" {
				out.Message = a.Message
			}
			if a.Details != nil {
				out.Details = a.Details
			}
		}
		p.dl.Reasons[label] = &out
	}
}

// shapeWords are the options of each action.
var shapeWords = map[string][]string{
	dialect.Create: {"status", "wrap", "flat", "members", "member", "input", "required"},
	dialect.List:   {"status", "wrap", "array", "members", "member", "filter"},
	dialect.Get:    {"status", "wrap", "flat", "members", "member"},
	dialect.Update: {"status", "wrap", "flat", "members", "member", "empty", "input", "required"},
	dialect.Rotate: {"status", "wrap", "flat", "members", "member", "input", "required", "grace"},
	dialect.Revoke: {"status", "wrap", "flat", "members", "member", "empty"},
	dialect.Me:     {"status", "wrap", "flat", "members", "member"},
}

// exclusive are options of which an answer has one.
var exclusive = [][2]string{{"wrap", "flat"}, {"wrap", "array"}, {"array", "member"},
	{"empty", "wrap"}, {"empty", "members"}, {"empty", "member"}, {"empty", "flat"}}

// shape reads the answer to an action and what its request may say.
//
//	create {
//		status <n>
//		wrap <name>                           # or flat; list also: array
//		members <field...>
//		member <name> <text>                  # constant; or: member <name> json <value>
//		member -<name>                        # drops one of the preset
//		empty                                 # update and revoke: no body
//		input <field...>|none                 # create, update and rotate
//		required <field...>|none
//		filter <field...>|none                # list
//		grace <duration>                      # rotate
//	}
func (p *dialectParser) shape(d *caddyfile.Dispenser, action string) error {
	if d.NextArg() {
		return d.Errf("%s takes a block, not %q", action, d.Val())
	}
	at := p.dl.At(action)
	if *at == nil {
		*at = &dialect.Shape{Empty: action == dialect.Revoke}
	}
	once := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		word := d.Val()
		if !slices.Contains(shapeWords[action], word) {
			return unrecognized(d, shapeWords[action]...)
		}
		if word != "member" {
			if err := single(d, once, word); err != nil {
				return err
			}
		}
		once[word] = true
		for _, pair := range exclusive {
			if once[pair[0]] && once[pair[1]] && (word == pair[0] || word == pair[1]) {
				return d.Errf("%s and %s do not go together: leave one out", pair[0], pair[1])
			}
		}
		if err := shapeOption(d, *at, word, once); err != nil {
			return err
		}
		p.mark(d)
	}
	return nil
}

func shapeOption(d *caddyfile.Dispenser, s *dialect.Shape, word string, once map[string]bool) error {
	switch word {
	case "status":
		return number(d, &s.Status)
	case "wrap":
		s.Array, s.Empty = false, false
		return word1(d, &s.Wrap)
	case "flat":
		s.Wrap, s.Empty = "", false
		return flag(d, new(bool))
	case "array":
		s.Wrap, s.Extra = "", nil
		return flag(d, &s.Array)
	case "empty":
		s.Wrap, s.Members, s.Extra = "", nil, nil
		return flag(d, &s.Empty)
	case "members":
		s.Empty = false
		return fieldList(d, &s.Members, false)
	case "member":
		s.Empty = false
		return constantMember(d, s, once)
	case "input":
		return fieldList(d, &s.Inputs, true)
	case "required":
		return fieldList(d, &s.Required, true)
	case "filter":
		return fieldList(d, &s.Filters, true)
	}
	return word1(d, &s.Grace)
}

// fieldList reads one or more fields, or none.
func fieldList(d *caddyfile.Dispenser, into *[]string, mayBeNone bool) error {
	word := d.Val()
	args := d.RemainingArgs()
	switch {
	case mayBeNone && len(args) == 1 && args[0] == "none":
		*into = []string{}
	case len(args) > 0:
		*into = args
	case mayBeNone:
		return d.Errf("%s needs one or more fields, or none", word)
	default:
		return d.Errf("%s needs one or more fields", word)
	}
	return nil
}

// constantMember reads a constant member, which replaces that of the same name.
func constantMember(d *caddyfile.Dispenser, s *dialect.Shape, once map[string]bool) error {
	args := d.RemainingArgs()
	if len(args) == 1 && len(args[0]) > 1 && args[0][0] == '-' {
		i := slices.IndexFunc(s.Extra, func(m dialect.Member) bool { return m.Name == args[0][1:] })
		if i < 0 {
			return d.Errf("there is no member %s to drop", args[0][1:])
		}
		s.Extra = slices.Delete(s.Extra, i, i+1)
		return nil
	}
	asJSON := len(args) == 3 && args[1] == "json"
	if len(args) != 2 && !asJSON {
		return d.Err(`member needs a name and a text, or JSON: member message "Save this key now", member success json true`)
	}
	if err := single(d, once, "member "+args[0]); err != nil {
		return err
	}
	m := dialect.Member{Name: args[0], Value: args[len(args)-1], JSON: asJSON}
	if i := slices.IndexFunc(s.Extra, func(m dialect.Member) bool { return m.Name == args[0] }); i >= 0 {
		s.Extra[i] = m
	} else {
		s.Extra = append(s.Extra, m)
	}
	return nil
}
