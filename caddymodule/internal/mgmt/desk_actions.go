package mgmt

import (
	"slices"
	"time"

	"github.com/keytoll/keytoll/caddymodule/access"
	"github.com/keytoll/keytoll/caddymodule/internal/dialect"
	"github.com/keytoll/keytoll/caddymodule/internal/registrar"
)

func (v *visit) create() error {
	in, once, err := v.input()
	if err != nil {
		return err
	}
	req := registrar.CreateKeyRequest{Name: value(in.Name), Description: value(in.Description), Expires: in.ExpiresAt,
		ExpiresIn: value(in.ExpiresIn), Rate: in.Rate, Environment: value(in.Environment), Permissions: value(in.Permissions),
		Addresses: value(in.Addresses), Metadata: value(in.Metadata), Idempotency: once,
		// A product that knows no permissions for keys knows only keys that are alike.
		LikeCaller: !slices.Contains(v.o.Dialect.Shape(dialect.Create).Inputs, "permissions")}
	issued, err := v.desk.IssueKey(v.r.Context(), req)
	if err != nil {
		return err
	}
	v.w.Header().Set("Location", v.o.Base+"/"+issued.Key.ID.String())
	return v.issued(issued)
}

func (v *visit) rotate() error {
	in, once, err := v.input()
	if err != nil {
		return err
	}
	issued, err := v.desk.RotateKey(v.r.Context(), v.id, registrar.RotateRequest{Grace: in.Grace, Idempotency: once})
	if err != nil {
		return err
	}
	return v.issued(issued)
}

// issued answers with a key and its secret, and without its last use: a
// repeated answer is the same.
func (v *visit) issued(i *registrar.Issued) error {
	v.write(v.o.Dialect.Key(v.action, dialect.KeyView{Key: i.Key, Secret: i.Secret.Reveal(), Plan: v.plan}))
	return nil
}

func (v *visit) list() error {
	filters := v.o.Dialect.Shape(dialect.List).Filters
	q, err := v.query(append([]string{"limit", "cursor"}, filters...)...)
	if err != nil {
		return err
	}
	limit, err := pageLimit(q["limit"], registrar.MaxLimit)
	if err != nil {
		return err
	}
	after, err := keyCursor(q["cursor"])
	if err != nil {
		return err
	}
	f := registrar.KeyFilter{Name: q["name"]}
	if f.Status, err = statusFilter(q["status"]); err != nil {
		return err
	}
	page, next, err := v.desk.Keys(v.r.Context(), f, after, limit)
	if err != nil {
		return err
	}
	views := make([]dialect.KeyView, 0, len(page))
	for _, k := range page {
		views = append(views, v.view(k))
	}
	v.link(q, next)
	v.write(v.o.Dialect.List(views))
	return nil
}

func (v *visit) get() error {
	if _, err := v.query(); err != nil {
		return err
	}
	return v.key(v.desk.Key(v.r.Context(), v.id))
}

func (v *visit) revoke() error {
	if _, err := v.query(); err != nil {
		return err
	}
	return v.key(v.desk.RevokeKey(v.r.Context(), v.id))
}

func (v *visit) update() error {
	in, _, err := v.input()
	if err != nil {
		return err
	}
	u := registrar.KeyUpdate{Name: in.Name, Description: in.Description, ExpiresAt: in.ExpiresAt, Never: in.Never,
		Rate: in.Rate, PlanRate: in.PlanRate, Permissions: in.Permissions, Addresses: in.Addresses, Metadata: in.Metadata}
	if in.ExpiresIn != nil {
		u.ExpiresAt = new(v.o.Now().Add(*in.ExpiresIn).Truncate(time.Second))
	}
	if in.Disabled != nil {
		u.Status = new(access.StatusActive)
		if *in.Disabled {
			u.Status = new(access.StatusDisabled)
		}
	}
	if u == (registrar.KeyUpdate{}) {
		return badRequest("", "nothing to change")
	}
	return v.key(v.desk.UpdateKey(v.r.Context(), v.id, u))
}

func (v *visit) me() error {
	if _, err := v.query(); err != nil {
		return err
	}
	me, err := v.desk.Me(v.r.Context())
	if err != nil {
		return err
	}
	view := dialect.KeyView{Key: me.Key, Use: me.Use}
	if me.Plan != nil {
		view.Plan, view.Limits = me.Plan.Name, me.Plan.Rates
	}
	if !me.Key.Rate.IsZero() {
		view.Limits = []access.Rate{me.Key.Rate}
	}
	if v.o.Use != nil {
		view.Use = v.o.Use(me.Key.ID)
	}
	if v.o.LastRefusal != nil {
		if reason, at := v.o.LastRefusal(me.Key.ID); at != 0 {
			view.Refusal = &dialect.RefusedBefore{Reason: reason, At: at}
		}
	}
	v.write(v.o.Dialect.Key(v.action, view))
	return nil
}

func (v *visit) key(k *access.Key, err error) error {
	if err != nil {
		return err
	}
	if v.action == dialect.Revoke {
		v.write(v.o.Dialect.Revoke(v.view(k)))
		return nil
	}
	v.write(v.o.Dialect.Key(v.action, v.view(k)))
	return nil
}

func (v *visit) view(k *access.Key) dialect.KeyView {
	view := dialect.KeyView{Key: k, Plan: v.plan}
	if v.o.Use != nil {
		view.Use = v.o.Use(k.ID)
	}
	return view
}

// readPlan notes the name of the plan that the caller's tenant has, if the
// answer shows it. It comes before the action, which may end the caller.
func (v *visit) readPlan() error {
	if v.action == dialect.Me || !slices.Contains(v.o.Dialect.Shape(v.action).Members, "plan") {
		return nil
	}
	me, err := v.desk.Me(v.r.Context())
	if err != nil {
		return err
	}
	if v.plan = me.Tenant.Plan; me.Plan != nil {
		v.plan = me.Plan.Name
	}
	return nil
}

// value returns what p points to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
