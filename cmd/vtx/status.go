package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/govtx/vtx/hypercall"
)

var statusCommand = &command{
	name:  "status",
	args:  "[N|NAME]",
	short: "explain a hypercall's status",
	long: `The status is a number N of 16 bits, or a NAME such as HV_STATUS_INVALID_PARAMETER,
with or without HV_STATUS_, without regard to case and blanks. Without an argument all
are listed. "vtx hypercall -result" takes the whole result.

Exit status: 0; 1 if the status is not known; 2 if there is none of the name.
`,
	setup: func(*flag.FlagSet) func([]string) (int, error) {
		return func(args []string) (int, error) {
			switch len(args) {
			case 0:
				t := newTable(os.Stdout)
				for s := range hypercall.Statuses() {
					fmt.Fprintf(t.w, "0x%04x\t%s\t%s\n", uint16(s), s.String(), s.Meaning())
				}
				return 0, t.w.Flush()
			case 1:
				s, err := hypercall.ParseStatus(args[0])
				if err != nil {
					return 0, fmt.Errorf("%w; \"vtx status\" lists them", err)
				}
				t := newTable(os.Stdout)
				statusRows(t, s)
				return known(s.Known()), t.w.Flush()
			}
			return 0, fmt.Errorf("want one status, not %d; quote one that has blanks", len(args))
		}
	},
}
