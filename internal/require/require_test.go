package require

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
)

// recorder is a T that keeps whether there was a failure.
type recorder struct{ failed bool }

func (r *recorder) Helper()               {}
func (r *recorder) Fatalf(string, ...any) { r.failed = true }

func TestChecksFailWhenTheyShould(t *testing.T) {
	wrapped := fmt.Errorf("open: %w", fs.ErrNotExist)
	var pathError *os.PathError
	check := func(name string, bad bool, f func(T)) {
		t.Helper()
		var r recorder
		f(&r)
		if r.failed != bad {
			t.Errorf("%s: failed %v, want %v", name, r.failed, bad)
		}
	}
	for _, bad := range []bool{false, true} {
		pick := func(good, worse any) any {
			if bad {
				return worse
			}
			return good
		}
		err := func(good, worse error) error {
			if bad {
				return worse
			}
			return good
		}
		check("True", bad, func(t T) { True(t, !bad) })
		check("False", bad, func(t T) { False(t, bad) })
		check("Equal", bad, func(t T) { Equal(t, []int{1}, pick([]int{1}, []int{2})) })
		check("Equal types", bad, func(t T) { Equal(t, 1, pick(1, uint(1))) })
		check("NotEqual", bad, func(t T) { NotEqual(t, 1, pick(2, 1)) })
		check("Zero", bad, func(t T) { Zero(t, pick(0, 1)) })
		check("NotZero", bad, func(t T) { NotZero(t, pick("a", "")) })
		check("Nil", bad, func(t T) { Nil(t, pick((*int)(nil), new(int))) })
		check("NotNil", bad, func(t T) { NotNil(t, pick(new(int), nil)) })
		check("Len", bad, func(t T) { Len(t, pick("ab", "a"), 2) })
		check("Empty", bad, func(t T) { Empty(t, pick([]int{}, []int{1})) })
		check("NotEmpty", bad, func(t T) { NotEmpty(t, pick("a", "")) })
		check("Contains", bad, func(t T) { Contains(t, pick("abc", "ac").(string), "b") })
		check("Contains element", bad, func(t T) { Contains(t, []int{1, 2}, pick(2, 3)) })
		check("NotContains", bad, func(t T) { NotContains(t, pick("ac", "abc").(string), "b") })
		check("Less", bad, func(t T) { Less(t, pick(1, 2).(int), 2) })
		check("LessOrEqual", bad, func(t T) { LessOrEqual(t, pick(2, 3).(int), 2) })
		check("Greater", bad, func(t T) { Greater(t, pick(3, 2).(int), 2) })
		check("GreaterOrEqual", bad, func(t T) { GreaterOrEqual(t, pick(2, 1).(int), 2) })
		check("NoError", bad, func(t T) { NoError(t, err(nil, wrapped), "with %d", 1) })
		check("Error", bad, func(t T) { Error(t, err(wrapped, nil)) })
		check("ErrorIs", bad, func(t T) { ErrorIs(t, err(wrapped, nil), fs.ErrNotExist) })
		check("NotErrorIs", bad, func(t T) { NotErrorIs(t, err(nil, wrapped), fs.ErrNotExist) })
		check("ErrorAs", bad, func(t T) { ErrorAs(t, err(&os.PathError{Err: wrapped}, wrapped), &pathError) })
		check("ErrorContains", bad, func(t T) { ErrorContains(t, err(wrapped, errors.New("else")), "open") })
		check("Panics", bad, func(t T) { Panics(t, func() { panicIf(!bad, 1) }) })
		check("PanicsWithValue", bad, func(t T) { PanicsWithValue(t, 1, func() { panicIf(true, pick(1, 2)) }) })
		check("PanicsWithError", bad, func(t T) { PanicsWithError(t, "x", func() { panicIf(true, err(errors.New("x"), wrapped)) }) })
	}
}

func panicIf(do bool, v any) {
	if do {
		panic(v)
	}
}
