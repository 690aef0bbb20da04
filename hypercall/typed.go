package hypercall

import (
	"encoding/binary"
	"fmt"
	"unsafe"
)

// Parameters are a structure of a fixed size that is passed to or comes from a hypercall,
// like those of this package. Get and Put read and write Size bytes, report whether there
// are so many, and keep neither the bytes nor the structure.
type Parameters interface {
	Size() int
	Get(b []byte) bool
	Put(b []byte) bool
	ReservedZero() bool // whether all that is reserved is 0
}

// A PointerTo is a *T that is Parameters. Go finds it by itself where T is given.
type PointerTo[T any] interface {
	*T
	Parameters
}

// SimpleFunc returns the Handler of a simple call without results, which calls f with
// the input header. If the call takes a variable header, f finds it in
// [Call.VariableHeader].
//
// The Layout is what [Code.Layout] knows, and else what the types say. SimpleFunc and
// the like panic if these contradict each other, which a program would do at its start.
// What is reserved in parameters and not 0 is answered with StatusInvalidParameter.
func SimpleFunc[I any, PI PointerTo[I]](code Code, f func(c *Call, input I) Status) Handler {
	return Handler{
		Code: code, Layout: layoutOf(code, Layout{Input: sizeOf[I, PI](code)}),
		Simple: func(c *Call) Status {
			input, ok := get[I, PI](c.Header())
			if !ok {
				return StatusInvalidParameter
			}
			return f(c, input)
		},
	}
}

// SimpleFuncOut is SimpleFunc for calls with results, which are the caller's if the
// status is StatusSuccess.
func SimpleFuncOut[I, O any, PI PointerTo[I], PO PointerTo[O]](code Code, f func(c *Call, input I) (O, Status)) Handler {
	return Handler{
		Code: code, Layout: layoutOf(code, Layout{Input: sizeOf[I, PI](code), Output: sizeOf[O, PO](code)}),
		Simple: func(c *Call) Status {
			input, ok := get[I, PI](c.Header())
			if !ok {
				return StatusInvalidParameter
			}
			output, s := f(c, input)
			put[O, PO](c.Output(), output)
			return s
		},
	}
}

// RepFunc returns the Handler of a rep call without results, which calls f for each
// element until it returns another status than StatusSuccess.
func RepFunc[I, E any, PI PointerTo[I], PE PointerTo[E]](code Code, f func(c *Call, input I, element E) Status) Handler {
	return Handler{
		Code: code, Layout: layoutOf(code, Layout{Input: sizeOf[I, PI](code), InputElement: sizeOf[E, PE](code)}),
		Rep: func(c *Call, first, limit int) (int, Status) {
			input, ok := get[I, PI](c.Header())
			if !ok {
				return 0, StatusInvalidParameter
			}
			list, size := c.Elements(), int(c.call.inputElement)
			for i := range limit - first {
				element, ok := get[E, PE](list[:size])
				if !ok {
					return i, StatusInvalidParameter
				}
				if s := f(c, input, element); s != StatusSuccess {
					return i, s
				}
				list = list[size:]
			}
			return limit - first, StatusSuccess
		},
	}
}

// RepFuncOut is RepFunc for calls with results, one for each element.
func RepFuncOut[I, E, O any, PI PointerTo[I], PE PointerTo[E], PO PointerTo[O]](code Code, f func(c *Call, input I, element E) (O, Status)) Handler {
	return Handler{
		Code: code, Layout: layoutOf(code, Layout{Input: sizeOf[I, PI](code), InputElement: sizeOf[E, PE](code), OutputElement: sizeOf[O, PO](code)}),
		Rep: func(c *Call, first, limit int) (int, Status) {
			input, ok := get[I, PI](c.Header())
			if !ok {
				return 0, StatusInvalidParameter
			}
			for i := first; i < limit; i++ {
				element, ok := get[E, PE](c.Element(i))
				if !ok {
					return i - first, StatusInvalidParameter
				}
				output, s := f(c, input, element)
				if s != StatusSuccess {
					return i - first, s
				}
				put[O, PO](c.OutputElement(i), output)
			}
			return limit - first, StatusSuccess
		},
	}
}

// sizeOf returns the size of parameters of a handler.
func sizeOf[T any, P PointerTo[T]](code Code) uint16 {
	n := size[T, P]()
	if n < 0 || n > pageSize {
		panic(fmt.Sprintf("hypercall: a %T, which the handler of %v takes, has %d bytes: parameters have 0 to %d", *new(T), code, n, pageSize))
	}
	return uint16(n)
}

// layoutOf returns the layout of a call, with sizes given by types.
func layoutOf(code Code, types Layout) Layout {
	known, ok := code.Layout()
	if !ok {
		return types
	}
	types.Variable, types.SlowOnly, types.Privileges = known.Variable, known.SlowOnly, known.Privileges
	if types != known {
		panic(fmt.Sprintf("hypercall: the types of the handler of %v make the layout %+v, which is %+v", code, types, known))
	}
	return known
}

// size returns the size of parameters in bytes.
func size[T any, P PointerTo[T]]() int {
	var v T
	return P(hide(&v)).Size()
}

// get returns the parameters in b, and whether what is reserved in them is 0.
//
// These functions hide from the compiler that a variable's address goes into a method that it
// cannot see through: otherwise each such variable would be on the heap. Parameters keep
// no pointer, and handlers get values.
func get[T any, P PointerTo[T]](b []byte) (v T, ok bool) {
	p := P(hide(&v))
	if word, is := any(p).(*Uint64); is { // as for any other, without calls
		ok = word.Get(b)
	} else {
		ok = p.Get(b) && p.ReservedZero()
	}
	return v, ok
}

func put[T any, P PointerTo[T]](b []byte, v T) { P(hide(&v)).Put(b) }

// hide returns p, of which escape analysis loses sight.
func hide[T any](p *T) *T {
	address := uintptr(unsafe.Pointer(p))
	return *(**T)(unsafe.Pointer(&address))
}

// None are the parameters of a call that has none.
type None struct{}

func (*None) Size() int          { return 0 }
func (*None) Get([]byte) bool    { return true }
func (*None) Put([]byte) bool    { return true }
func (*None) ReservedZero() bool { return true }

// A Uint32 is an element of 4 bytes, such as a processor's index.
type Uint32 uint32

func (*Uint32) Size() int           { return 4 }
func (v *Uint32) Get(b []byte) bool { return get32(v, b) }
func (v *Uint32) Put(b []byte) bool { return put32(*v, b) }
func (*Uint32) ReservedZero() bool  { return true }

// A Uint64 is an element of 8 bytes, such as a page number.
type Uint64 uint64

func (*Uint64) Size() int           { return 8 }
func (v *Uint64) Get(b []byte) bool { return get64(v, b) }
func (v *Uint64) Put(b []byte) bool { return put64(*v, b) }
func (*Uint64) ReservedZero() bool  { return true }

// A Register is an element of HvCallGetVpRegisters.

func (*Register) Size() int           { return 4 }
func (r *Register) Get(b []byte) bool { return get32(r, b) }
func (r *Register) Put(b []byte) bool { return put32(*r, b) }
func (*Register) ReservedZero() bool  { return true }

// A GvaRange is an element of HvCallFlushVirtualAddressList.

func (*GvaRange) Size() int           { return 8 }
func (r *GvaRange) Get(b []byte) bool { return get64(r, b) }
func (r *GvaRange) Put(b []byte) bool { return put64(*r, b) }
func (*GvaRange) ReservedZero() bool  { return true }

func get32[T ~uint32](v *T, b []byte) bool {
	if len(b) < 4 {
		return false
	}
	*v = T(binary.LittleEndian.Uint32(b))
	return true
}

func put32[T ~uint32](v T, b []byte) bool {
	if len(b) < 4 {
		return false
	}
	binary.LittleEndian.PutUint32(b, uint32(v))
	return true
}

func get64[T ~uint64](v *T, b []byte) bool {
	if len(b) < 8 {
		return false
	}
	*v = T(binary.LittleEndian.Uint64(b))
	return true
}

func put64[T ~uint64](v T, b []byte) bool {
	if len(b) < 8 {
		return false
	}
	binary.LittleEndian.PutUint64(b, uint64(v))
	return true
}
