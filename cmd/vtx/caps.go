package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/govtx/vtx/vmcs"
)

// maxCapsBytes is the most that "vtx caps" reads of a text.
const maxCapsBytes = 64 << 20

var capsCommand = &command{
	name:  "caps",
	args:  "",
	short: "say what a processor's VMX can do, by its capability MSRs",
	long: `Without -model and -file, the capability MSRs of this machine are read, by Linux'
msr driver (modprobe msr), which root may use.

The FILE of -file has values that were recorded: what -raw prints, the output of
rdmsr, a log of VirtualBox, or any text with lines such as
	msr 0x480 0x00d810000000002b
	IA32_VMX_BASIC = 0xda040000000010
	cpuid 0x1 0x0 0x000406f1 0x00000000 0x00000020 0x00000000

For each group of controls the table has the bits with
	must  the bit must be 1
	may   the bit may be 0 or 1
	no    the bit must be 0: the processor lacks what it controls
Bits without a name are listed only if they may be 1.

Exit status: 0; 1 if the capabilities cannot be read; 2 if the command line makes no
sense.
`,
	setup: func(fs *flag.FlagSet) func([]string) (int, error) {
		c := &capsRun{in: os.Stdin, out: os.Stdout, errs: os.Stderr}
		fs.StringVar(&c.model, "model", "", "take the processor `NAME`, recorded in this program")
		fs.StringVar(&c.file, "file", "", "take the values in `FILE`; - is standard input")
		fs.IntVar(&c.cpu, "cpu", 0, "read processor `N` of this machine")
		fs.BoolVar(&c.list, "list", false, "list the names of the recorded processors")
		fs.BoolVar(&c.raw, "raw", false, "print the values themselves, as -file and \"vtx check -caps\" read them")
		return c.run
	},
}

// A capsRun is one run of "vtx caps".
type capsRun struct {
	model, file string
	cpu         int
	list, raw   bool
	in          io.Reader
	out, errs   io.Writer
}

func (c *capsRun) run(args []string) (int, error) {
	switch {
	case len(args) > 0:
		return 0, fmt.Errorf("%q is not a flag; -model and -file name what to print", args[0])
	case c.model != "" && c.file != "":
		return 0, errors.New("-model and -file exclude each other")
	case c.cpu < 0:
		return 0, fmt.Errorf("-cpu %d: processors count from 0", c.cpu)
	case c.list:
		return 0, listModels(c.out)
	}
	if c.model != "" {
		if _, err := vmcs.ModelText(c.model); err != nil {
			return 0, fmt.Errorf("-model: %w", err)
		}
	}
	if err := c.print(); err != nil {
		fmt.Fprintf(c.errs, "vtx caps: %v\n", err)
		return 1, nil
	}
	return 0, nil
}

// print reads the values and prints them.
func (c *capsRun) print() error {
	name, r, err := c.read()
	if err != nil {
		return err
	}
	if c.raw {
		_, err := fmt.Fprint(c.out, r)
		return err
	}
	caps, err := r.Capabilities()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return printCaps(c.out, name, caps)
}

// read returns the values that the flags name, and what to call them.
func (c *capsRun) read() (name string, r *vmcs.Recorded, err error) {
	switch {
	case c.model != "":
		text, err := vmcs.ModelText(c.model)
		if err != nil {
			return "", nil, err
		}
		r, err := vmcs.ParseRecorded(text)
		return c.model + ": " + modelTitle(text), r, err
	case c.file != "":
		name, in := "standard input", c.in
		if c.file != "-" {
			f, err := os.Open(c.file)
			if err != nil {
				return "", nil, err
			}
			defer f.Close()
			name, in = c.file, f
		}
		text, err := io.ReadAll(io.LimitReader(in, maxCapsBytes+1))
		if err == nil && len(text) > maxCapsBytes {
			err = fmt.Errorf("longer than %d MiB; cut the values out of it", maxCapsBytes>>20)
		}
		if err == nil {
			r, err = vmcs.ParseRecorded(string(text))
		}
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", name, err)
		}
		return name, r, nil
	}
	name = fmt.Sprintf("processor %d of this machine", c.cpu)
	var cpuid vmcs.CPUIDReader
	if runtime.GOARCH == "amd64" {
		if !vmcs.ReadCPU(vmcs.Processor{}).VMX {
			return "", nil, fmt.Errorf("%s: %w; -model and -file print those of others", name, vmcs.ErrNoVMX)
		}
		cpuid = vmcs.Processor{}
	}
	msrs, err := vmcs.OpenMSRDevice(c.cpu)
	if err != nil {
		return "", nil, fmt.Errorf("%w; -model and -file print those of others", err)
	}
	defer msrs.Close()
	r, err = vmcs.Record(msrs, cpuid)
	return name, r, err
}

// modelTitle is the first line of a recorded text, without the mark of a comment.
func modelTitle(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "#"))
}

func listModels(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, name := range vmcs.Models() {
		text, err := vmcs.ModelText(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(t, "%s\t%s\n", name, modelTitle(text))
	}
	return t.Flush()
}

// printCaps prints a summary, then each group of controls.
func printCaps(w io.Writer, name string, c *vmcs.Capabilities) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", name)
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{what}, args...)...)
	}
	if c.HasFeatureControl {
		row("Feature control", "%v", c.FeatureControl)
	}
	switch err := c.CanVMXON(); {
	case err != nil:
		row("VMXON", "fails: %s", strings.TrimPrefix(err.Error(), "vmcs: "))
	case c.HasFeatureControl:
		row("VMXON", "works outside SMX operation")
	default:
		row("VMXON", "IA32_FEATURE_CONTROL is not known")
	}
	row("Basic", "%v", c.Basic)
	row("Misc", "%v", c.Misc)
	row("EPT and VPID", "%v", c.EPTVPID)
	row("CR0", "must be 1: %#x, may be 1: %#x", c.CR0Fixed0, c.CR0Fixed1)
	row("CR4", "must be 1: %#x, may be 1: %#x", c.CR4Fixed0, c.CR4Fixed1)
	row("Fields", "highest index %d", c.HighestIndex())
	if c.CPU.Known {
		row("Addresses", "%d bits physical, %d bits linear", c.CPU.PhysicalAddressBits, c.CPU.LinearAddressBits)
	}
	t.Flush()
	for g := range vmcs.ControlGroup(vmcs.NumControlGroups) {
		printGroup(&b, g, c.Controls[g])
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printGroup prints the bits of a group of controls.
func printGroup(w io.Writer, g vmcs.ControlGroup, a vmcs.Allowed) {
	title := g.String()
	fmt.Fprintf(w, "\n%s", strings.ToUpper(title[:1])+title[1:])
	if a.May1 == 0 {
		fmt.Fprint(w, ": none\n")
		return
	}
	fmt.Fprintf(w, " (must be 1: %#x, may be 1: %#x)\n", a.Must1, a.May1)
	for i := range g.Width() {
		b, named := g.Bit(i)
		state := "no"
		switch {
		case a.Must1>>i&1 != 0:
			state = "must"
		case a.May1>>i&1 != 0:
			state = "may"
		case !named:
			continue
		}
		name := b.SDMName
		if !named {
			name = "(without a name)"
			if g.Default1()>>i&1 != 0 {
				name = "(reserved, default1)"
			}
		}
		fmt.Fprintf(w, "  bit %2d  %-4s  %s\n", i, state, name)
	}
}
