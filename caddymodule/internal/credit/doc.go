// Package credit is the ledger: it takes what a request costs from a tenant's
// credits and quotas, and from its key's, before the request goes on, and puts
// it right when the cost is known.
//
// # Accounts
//
// What was used is counted in accounts, one for each subject (tenant or key),
// meter and kind of period, and one for each grant. An account is a [Slot],
// which outlives the process; limits are not kept there but come with each
// call as [Terms]. So a plan that changes holds from the next call, what was
// used counts on, and changing the kind of the period (a day for a month) and
// back again finds the old count.
//
// # Order of spending
//
// First the credits of the period, with what was carried over; then grants,
// those that expire soonest first and those that never do last; then the
// overage. A price may be split among them. What is given back goes back in
// the reverse order. A grant can be spent before the second in which it
// expires, and is neither revived nor spent twice if clocks go back.
//
// # All or nothing
//
// [Ledger.Charge] takes from all accounts or from none, under the locks of the
// tenant's purse and then the key's. It charges the whole price, so a crash
// leaves the price charged and nothing can be sold twice. [Receipt.Settle]
// then adds the difference to the final cost, or takes it off, once.
//
// # Amounts
//
// A price of 0 is free: it passes with an empty purse too. A price below zero
// or above [access.MaxCredits] is refused. A final cost of 0 is free: the
// price is given back. A final cost below zero or above the maximum is an
// error of the upstream: the price stands. A final cost above the price is
// charged in full even if that is more than there is; the debt is in the
// period's account and ends with the period. Sums that an int64 does not hold
// are refused, and nothing is changed.
//
// A quota lets a request through if what it is known to use is left, and
// something is left at all: a quota of 0 refuses all requests.
//
// # Periods
//
// A period opens with the first call in it, under the terms of that call. An
// account's period only moves forward. If the clock goes back over a boundary,
// or comes back after it was wrong by any time, the account stays in the later
// period, and what is used counts there, until the clock gets there again.
// Changed terms may open a period at once: if months start on the 15th and not
// the 1st, from the 15th on. They never open one again. Another time zone opens
// none: a start that it puts off by hours is the same start.
//
// Allowances reset to the amount (used is 0) or, with Add, get what was unused
// on top, up to one period's amount: the unused part of the period right
// before, all of the amount if nothing was used for more than a period, and
// nothing at an account's first.
//
// What is settled after the end of its period: a difference to be given back
// lapses, or with Add makes the carried credits what they would have been; one
// to be paid is paid in the present period. The period is over when a call has
// opened the next. [Receipt.Advance] opens it as a charge does: a stream that goes
// on for hours pays for each in its own.
//
// # Strict
//
// With Strict, no account goes beyond what its slot has made durable as a
// lease. Leases are made for many charges at once (Block). If one cannot be
// made the charge is refused. Waiting for the disk, a lease holds up the
// charges of this purse and no others.
package credit
