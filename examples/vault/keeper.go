package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/govtx/vtx/hypercall"
	"github.com/govtx/vtx/ring0"
)

// Op is what a caller asks for.
type Op uint32

const (
	OpHMAC   Op = 1 // HMAC-SHA256 of the data
	OpProve  Op = 2 // the same of the data and "proof", then the number of attempts that were refused
	OpSay    Op = 3 // print a line
	OpFinish Op = 4 // end, with the number of steps that have failed
	OpNames  Op = 5 // that number of attempts, then the names of those not told yet, a line each, as many as fit
)

// Status is how it went.
type Status uint32

const (
	OK       Status = 0
	BadOp    Status = 1
	BadSize  Status = 2
	KeyWrong Status = 4
)

const (
	pageSize  = ring0.PageSize
	pageShift = 12
	header    = 16

	maxNames   = 64  // of attempts that are kept until VTL0 asks for them
	maxRepeats = 100 // of one attempt, with nothing else between
)

// A keeper has the key, and answers what is asked with it.
type keeper struct {
	key, sum [32]byte // sum is of the key, as it was at first
	out      io.Writer
	mine     []ring0.Range // this level's memory
	top      uint64        // where VTL0's memory ends

	attempts uint32   // that were refused
	names    []string // of those that VTL0 was not told of; when they are too many, no more are kept
	last     string
	repeats  int // of the last one
}

// keep is to be called first.
func (k *keeper) keep(key [32]byte) { k.key, k.sum = key, sha256.Sum256(key[:]) }

// whole tells whether the key is what it was.
func (k *keeper) whole() bool { return sha256.Sum256(k.key[:]) == k.sum }

func (k *keeper) hmac(data ...[]byte) []byte {
	h := hmac.New(sha256.New, k.key[:])
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(nil)
}

// usable tells whether a page can be one that VTL0 asks with: of its own memory, of which it
// keeps all rights. Neither this level's pages are, nor devices.
func (k *keeper) usable(at uint64) bool {
	return at%pageSize == 0 && at >= 1<<20 && at < k.top && // below 1 MiB are devices
		!slices.ContainsFunc(k.mine, func(r ring0.Range) bool { return at >= r.Start && at < r.End })
}

// note keeps the name of an attempt, and prints it. It is an error if VTL0 does nothing but to
// try the same again: it cannot even take the exception, and would for ever.
func (k *keeper) note(format string, args ...any) error {
	name := fmt.Sprintf(format, args...)
	k.attempts++
	if len(k.names) < maxNames {
		k.names = append(k.names, name)
	}
	fmt.Fprintln(k.out, "refused:", name)
	if name != k.last {
		k.last, k.repeats = name, 0
	}
	if k.repeats++; k.repeats > maxRepeats {
		return fmt.Errorf("VTL0 does not get on: %d times in a row it was refused the %s", k.repeats, name)
	}
	return nil
}

// answer does what a page asks for and puts the answer there, and tells whether it was the last
// one. VTL0 does not run meanwhile, so what is read twice is the same.
func (k *keeper) answer(page []byte) (done bool, status int) {
	k.last = "" // VTL0 gets on
	le := binary.LittleEndian
	op, n, data := Op(le.Uint32(page)), le.Uint32(page[4:]), page[header:pageSize]
	set := func(s Status) { le.PutUint32(page[8:], uint32(s)) }
	if n > uint32(len(data)) {
		set(BadSize)
		return false, 0
	}
	question := data[:n]
	reply := func(b []byte) { le.PutUint32(page[4:], uint32(copy(data, b))) }
	set(OK)
	switch op {
	case OpHMAC:
		reply(k.hmac(question))
	case OpProve:
		if !k.whole() {
			set(KeyWrong)
			break
		}
		reply(le.AppendUint32(k.hmac(question, []byte("proof")), k.attempts))
	case OpNames:
		b := le.AppendUint32(nil, k.attempts)
		for len(k.names) > 0 && len(b)+len(k.names[0]) < len(data) {
			b = append(b, k.names[0]+"\n"...)
			k.names = k.names[1:]
		}
		reply(b)
	case OpSay:
		fmt.Fprintf(k.out, "VTL0 says: %q\n", question)
	case OpFinish:
		if n != 4 {
			set(BadSize)
			break
		}
		done = true
		if failed := le.Uint32(question); failed != 0 {
			fmt.Fprintf(k.out, "%d steps have failed\n", failed)
			status = 1
		}
		if !k.whole() {
			fmt.Fprintln(k.out, "the key is not what it was")
			set(KeyWrong)
			status = 1
		} else {
			fmt.Fprintf(k.out, "the key is whole after %d refused attempts; SHA-256 of it is %x\n", k.attempts, k.sum)
		}
	default:
		set(BadOp)
	}
	return done, status
}

// nameOf says what VTL0 has tried, in the words of the message that tells of it.
func nameOf(m *hypercall.Message) string {
	var memory hypercall.MemoryIntercept
	var msr hypercall.MsrIntercept
	var reg hypercall.RegisterIntercept
	verb := func(t hypercall.InterceptAccessType) string {
		return strings.ToLower(strings.TrimPrefix(t.String(), "HvInterceptAccess"))
	}
	switch {
	case m.Header.Type == hypercall.MessageGpaIntercept && m.GetPayload(&memory):
		h := &memory.Header
		return fmt.Sprintf("%s of %#x by code at %#x", verb(h.AccessType), memory.GPA, h.RIP)
	case m.Header.Type == hypercall.MessageMsrIntercept && m.GetPayload(&msr):
		h := &msr.Header
		return fmt.Sprintf("%s of MSR %#x with %#x by code at %#x", verb(h.AccessType), msr.MSR, msr.RDX<<32|msr.RAX&0xffffffff, h.RIP)
	case m.Header.Type == hypercall.MessageRegisterIntercept && m.GetPayload(&reg):
		h := &reg.Header
		return fmt.Sprintf("%s of %v with %#x by code at %#x", verb(h.AccessType), reg.Register, reg.Value.Low, h.RIP)
	}
	return fmt.Sprintf("what %v tells", m.Header.Type)
}
