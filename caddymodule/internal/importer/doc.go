// Package importer reads the keys of another product from CSV or NDJSON, line
// by line and in bounded memory, and hands them to the registrar in batches.
// What is wrong with a line is reported with its number and never with what
// stood there: columns get swapped, and a key must not end up in a report. A
// run is safe to repeat: keys that are there already are skipped.
package importer
