package importer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// errLongLine reports a line that was left out.
var errLongLine = fmt.Errorf("the line is longer than %d bytes", MaxLine)

// lines splits a file into lines of at most MaxLine bytes.
type lines struct {
	in     *bufio.Reader
	number int // of the line that next returned, from 1
}

func newLines(src io.Reader) *lines {
	return &lines{in: bufio.NewReaderSize(src, MaxLine+2)} // with \r\n
}

// next returns the next line without its end, good until the next call. It
// returns errLongLine for one that is too long, and goes on behind it, and io.EOF
// at the end.
func (l *lines) next() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	long := errors.Is(err, bufio.ErrBufferFull)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = l.in.ReadSlice('\n')
	}
	if err != nil && (err != io.EOF || len(line) == 0) {
		return nil, err
	}
	l.number++
	line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	if l.number == 1 {
		line = bytes.TrimPrefix(line, []byte("\ufeff"))
	}
	if long || len(line) > MaxLine {
		return nil, errLongLine
	}
	return line, nil
}
