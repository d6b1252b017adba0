// Package registrar is the only writer of tenants, keys and provider keys. Each
// method checks what it was given, runs one transaction, and returns either what
// is now stored or an *Error that may be shown to who asked as it stands. An
// error of another type is a fault of the machine or of keytoll; its text is for
// the log alone.
//
// A change that was returned without an error is durable, has its entry in the
// audit trail, written in the same transaction, and the gate knows of it: a
// revoked key fails on the next request.
//
// There are two doors: the methods of Registrar are the operator's, those of
// Desk a tenant's.
package registrar
