// Package require has those of testify's checks that tests of ring-0 code use,
// with the same names and arguments. Testify itself imports net/http, which
// brings in cgo and with it a dynamic linker: a test binary with it boots only if
// it is built with CGO_ENABLED=0, and `go test -exec 'vtx boot'` should just work.
package require

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// A T is what reports failures: testing.TB and *rapid.T are.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
}

// fail reports a failure, with what the caller has to say about it.
func fail(t T, what string, note []any) {
	t.Helper()
	if len(note) > 0 {
		format, ok := note[0].(string)
		if !ok {
			format = fmt.Sprint(note[0])
		}
		what += "\n" + fmt.Sprintf(format, note[1:]...)
	}
	t.Fatalf("%s", what)
}

// True requires a condition to hold.
func True(t T, v bool, note ...any) {
	t.Helper()
	if !v {
		fail(t, "should be true", note)
	}
}

// False requires a condition not to hold.
func False(t T, v bool, note ...any) {
	t.Helper()
	if v {
		fail(t, "should be false", note)
	}
}

// Equal requires two values of one type to be deeply equal.
func Equal(t T, want, got any, note ...any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		fail(t, fmt.Sprintf("not equal:\nwant %T %#v\ngot  %T %#v", want, want, got, got), note)
	}
}

// NotEqual requires two values to differ.
func NotEqual(t T, other, got any, note ...any) {
	t.Helper()
	if reflect.DeepEqual(other, got) {
		fail(t, fmt.Sprintf("should not be %#v", got), note)
	}
}

func isZero(v any) bool { return v == nil || reflect.ValueOf(v).IsZero() }

// Zero requires the zero value of its type.
func Zero(t T, v any, note ...any) {
	t.Helper()
	if !isZero(v) {
		fail(t, fmt.Sprintf("should be zero, is %#v", v), note)
	}
}

// NotZero requires another value than the zero value of its type.
func NotZero(t T, v any, note ...any) {
	t.Helper()
	if isZero(v) {
		fail(t, fmt.Sprintf("should not be %#v", v), note)
	}
}

// Nil requires a nil pointer, slice, map, function, channel or interface.
func Nil(t T, v any, note ...any) {
	t.Helper()
	Zero(t, v, note...)
}

// NotNil requires anything but nil.
func NotNil(t T, v any, note ...any) {
	t.Helper()
	NotZero(t, v, note...)
}

// Len requires a length.
func Len(t T, v any, n int, note ...any) {
	t.Helper()
	if got := reflect.ValueOf(v).Len(); got != n {
		fail(t, fmt.Sprintf("length %d, want %d: %#v", got, n, v), note)
	}
}

// Empty requires the length 0.
func Empty(t T, v any, note ...any) {
	t.Helper()
	Len(t, v, 0, note...)
}

// NotEmpty requires a length other than 0.
func NotEmpty(t T, v any, note ...any) {
	t.Helper()
	if reflect.ValueOf(v).Len() == 0 {
		fail(t, "should not be empty", note)
	}
}

// contains reports whether a string contains another, or a slice an element.
func contains(s, part any) bool {
	v := reflect.ValueOf(s)
	if v.Kind() == reflect.String {
		return strings.Contains(v.String(), reflect.ValueOf(part).String())
	}
	for i := range v.Len() {
		if reflect.DeepEqual(v.Index(i).Interface(), part) {
			return true
		}
	}
	return false
}

// Contains requires a string to contain another, or a slice an element.
func Contains(t T, s, part any, note ...any) {
	t.Helper()
	if !contains(s, part) {
		fail(t, fmt.Sprintf("%#v should contain %#v", s, part), note)
	}
}

// NotContains requires a string not to contain another, or a slice an element.
func NotContains(t T, s, part any, note ...any) {
	t.Helper()
	if contains(s, part) {
		fail(t, fmt.Sprintf("%#v should not contain %#v", s, part), note)
	}
}

// Less requires a < b.
func Less[V cmp.Ordered](t T, a, b V, note ...any) {
	t.Helper()
	if !(a < b) {
		fail(t, fmt.Sprintf("%v should be less than %v", a, b), note)
	}
}

// LessOrEqual requires a <= b.
func LessOrEqual[V cmp.Ordered](t T, a, b V, note ...any) {
	t.Helper()
	if !(a <= b) {
		fail(t, fmt.Sprintf("%v should be at most %v", a, b), note)
	}
}

// Greater requires a > b.
func Greater[V cmp.Ordered](t T, a, b V, note ...any) {
	t.Helper()
	Less(t, b, a, note...)
}

// GreaterOrEqual requires a >= b.
func GreaterOrEqual[V cmp.Ordered](t T, a, b V, note ...any) {
	t.Helper()
	LessOrEqual(t, b, a, note...)
}

// NoError requires a nil error.
func NoError(t T, err error, note ...any) {
	t.Helper()
	if err != nil {
		fail(t, "unexpected error: "+err.Error(), note)
	}
}

// Error requires an error.
func Error(t T, err error, note ...any) {
	t.Helper()
	if err == nil {
		fail(t, "there should be an error", note)
	}
}

// ErrorIs requires an error that wraps target.
func ErrorIs(t T, err, target error, note ...any) {
	t.Helper()
	if !errors.Is(err, target) {
		fail(t, fmt.Sprintf("the error is %v, not %v", err, target), note)
	}
}

// NotErrorIs requires an error, or none, that does not wrap target.
func NotErrorIs(t T, err, target error, note ...any) {
	t.Helper()
	if errors.Is(err, target) {
		fail(t, fmt.Sprintf("the error %v should not be %v", err, target), note)
	}
}

// ErrorAs requires an error of the type that target points to, and stores it.
func ErrorAs(t T, err error, target any, note ...any) {
	t.Helper()
	if !errors.As(err, target) {
		fail(t, fmt.Sprintf("the error %v is no %T", err, target), note)
	}
}

// ErrorContains requires an error with a text in it.
func ErrorContains(t T, err error, part string, note ...any) {
	t.Helper()
	Error(t, err, note...)
	Contains(t, err.Error(), part, note...)
}

// panicOf is what f panics with.
func panicOf(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// Panics requires f to panic.
func Panics(t T, f func(), note ...any) {
	t.Helper()
	if panicOf(f) == nil {
		fail(t, "should panic", note)
	}
}

// PanicsWithValue requires f to panic with a value.
func PanicsWithValue(t T, want any, f func(), note ...any) {
	t.Helper()
	Equal(t, want, panicOf(f), note...)
}

// PanicsWithError requires f to panic with an error of the given text.
func PanicsWithError(t T, want string, f func(), note ...any) {
	t.Helper()
	err, ok := panicOf(f).(error)
	if !ok || err.Error() != want {
		fail(t, fmt.Sprintf("the panic is %v, not the error %q", err, want), note)
	}
}
