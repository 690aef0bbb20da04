package ium_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/govtx/vtx/ium"
)

// countingReader calls fail instead of some of its reads.
type countingReader struct {
	b    []byte
	at   int // the first read that fails, from 0
	n    int // reads so far
	fail func(p []byte) (int, error)
}

func (r *countingReader) ReadAt(p []byte, at int64) (int, error) {
	r.n++
	if r.n > r.at {
		return r.fail(p)
	}
	return copy(p, r.b[at:]), nil
}

// operations are all that read, and what they return as text.
var operations = map[string]func(i *ium.Image) (any, error){
	"Policy":       func(i *ium.Image) (any, error) { return i.Policy() },
	"LoadConfig":   func(i *ium.Image) (any, error) { return i.LoadConfig() },
	"Certificates": func(i *ium.Image) (any, error) { return i.Certificates() },
	"Signatures":   func(i *ium.Image) (any, error) { return i.Signatures() },
	"Enclave":      func(i *ium.Image) (any, error) { return i.Enclave() },
	"Export":       func(i *ium.Image) (any, error) { _, ok, err := i.Export(ium.PolicyExport); return ok, err },
	"Exports":      func(i *ium.Image) (any, error) { return exportsOf(i) },
	"Relocations": func(i *ium.Image) (all any, err error) {
		var list []ium.Relocation
		for r, err := range i.Relocations() {
			if err != nil {
				return list, err
			}
			list = append(list, r)
		}
		return list, nil
	},
}

// Whichever read fails, it is the reader's error that comes back: it is not taken for
// something wrong with the file, and nothing is made of what was not read.
func TestEachReadFails(t *testing.T) {
	lost := errors.New("the disk is lost")
	failures := map[string]struct {
		fail func(p []byte) (int, error)
		want error
	}{
		"error":          {func([]byte) (int, error) { return 0, lost }, lost},
		"short":          {func(p []byte) (int, error) { return len(p) - 1, lost }, lost},
		"end":            {func([]byte) (int, error) { return 0, io.EOF }, io.ErrUnexpectedEOF},
		"without reason": {func([]byte) (int, error) { return 0, nil }, io.ErrUnexpectedEOF},
		"too much":       {func(p []byte) (int, error) { return len(p) + 1, nil }, io.ErrUnexpectedEOF},
		"less than none": {func([]byte) (int, error) { return -1, nil }, io.ErrUnexpectedEOF},
	}
	images := seeds(t)
	far := bytes.Clone(images[0]) // its headers are behind what is read of it first
	for len(far) < 0x3000 {
		far = append(far, 0)
	}
	h := headersOf(far)
	images = append(images, put(append(far, far[h.nt:h.nt+1024]...), 0x3c, uint32(len(far))))
	for n, b := range images {
		for name, failure := range failures {
			for at := 0; ; at++ {
				r := &countingReader{b, at, 0, failure.fail}
				_, err := ium.Open(r, int64(len(b)))
				if r.n <= at {
					require.NoError(t, err)
					break
				}
				require.ErrorIs(t, err, failure.want, "image %d, %s, read %d by Open", n, name, at)
			}
			for op, do := range operations {
				want, wantErr := do(open(t, b))
				for at := 0; ; at++ {
					r := &countingReader{b, math.MaxInt, 0, failure.fail}
					i, err := ium.Open(r, int64(len(b)))
					require.NoError(t, err)
					r.n, r.at = 0, at
					got, err := do(i)
					if r.n <= at {
						require.Equal(t, wantErr, err)
						require.Equal(t, want, got)
						break
					}
					require.ErrorIs(t, err, failure.want, "image %d, %s, read %d by %s", n, name, at, op)
					require.False(t, errors.As(err, new(*ium.FormatError)), "%v", err)
				}
			}
		}
	}
}

// An image can be read by several goroutines at once: with go test -race, that is seen.
func TestReadAtOnce(t *testing.T) {
	for _, b := range seeds(t) {
		i := open(t, b)
		var all sync.WaitGroup
		for op, do := range operations {
			want, wantErr := do(open(t, b))
			for range 4 {
				all.Go(func() {
					got, err := do(i)
					if !assert.ObjectsAreEqual(want, got) || !assert.ObjectsAreEqual(wantErr, err) {
						t.Errorf("%s: %v, %v; want %v, %v", op, got, err, want, wantErr)
					}
				})
			}
		}
		all.Wait()
	}
}

// Walks over tables can be left.
func TestWalksAreLeft(t *testing.T) {
	first := []any{}
	for q := range ium.Questions() {
		first = append(first, q)
		break
	}
	for info := range ium.PolicyIDs() {
		first = append(first, info.ID)
		break
	}
	require.Equal(t, []any{ium.CreateProcess, ium.PolicyETW}, first)
}
