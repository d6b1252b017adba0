package engine

import "github.com/keytoll/keytoll/caddymodule/internal/credit"

// Grants is credit.Ledger.Grants; a disk that fails is an error.
func (m *Metering) Grants(who credit.Payer) (list []credit.GrantBalance, err error) {
	err = m.guard(func() (err error) {
		list, err = m.Ledger.Grants(who)
		return err
	})
	return list, err
}

// Quotas is credit.Ledger.Quotas; a disk that fails is an error.
func (m *Metering) Quotas(who credit.Payer) (list []credit.QuotaBalance, err error) {
	err = m.guard(func() (err error) {
		list, err = m.Ledger.Quotas(who)
		return err
	})
	return list, err
}
