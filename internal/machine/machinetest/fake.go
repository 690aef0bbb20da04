package machinetest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// FakeEnv is the environment variable that turns a test binary into an
// emulator: steps between semicolons, done in order.
//
//	out=FILE     copy FILE to standard output
//	flood=FILE   do so for ever
//	err=TEXT     write TEXT and a newline to standard error
//	errs=N       write N lines to standard error
//	pid=DIR      leave an empty file named by the process id in DIR
//	spawn=DIR    start a process that does pid=DIR and hangs
//	escape=DIR   the same, in a session of its own
//	args=FILE    write the arguments and the working directory to FILE
//	copy=A>B     copy file A of the working directory to B
//	once=FILE    exit with status 1 and leave FILE, if that is not there
//	exit=N       exit
//	crash        die of SIGKILL
//	hang         sleep for ever
const FakeEnv = "VTX_TEST_FAKE"

// FakeModels is what the fake says about its CPU models.
const FakeModels = "Supported CPU models:\n\nabacus\nslide_rule\n\n000i[SIM] quit\n"

// Fake acts as an emulator if [FakeEnv] says so, and does not return then.
// TestMain calls it first.
func Fake() {
	script, ok := os.LookupEnv(FakeEnv)
	if !ok {
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "--help" {
		fmt.Print(FakeModels)
		os.Exit(0)
	}
	for step := range strings.SplitSeq(script, ";") {
		op, arg, _ := strings.Cut(step, "=")
		if err := fake(op, arg); err != nil {
			fmt.Fprintln(os.Stderr, "fake emulator:", step, err)
			os.Exit(99)
		}
	}
	os.Exit(0)
}

func fake(op, arg string) error {
	switch op {
	case "out", "flood":
		b, err := os.ReadFile(arg)
		for ; err == nil; _, err = os.Stdout.Write(b) {
			if op == "out" {
				_, err = os.Stdout.Write(b)
				return err
			}
		}
		return err
	case "err":
		fmt.Fprintln(os.Stderr, arg)
	case "errs":
		n, err := strconv.Atoi(arg)
		line := append(bytes.Repeat([]byte{'x'}, 99), '\n')
		for ; err == nil && n > 0; n-- {
			_, err = os.Stderr.Write(line)
		}
		return err
	case "pid":
		return os.WriteFile(filepath.Join(arg, strconv.Itoa(os.Getpid())), nil, 0o600)
	case "spawn", "escape":
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), FakeEnv+"=pid="+arg+";hang")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if op == "escape" {
			cmd.SysProcAttr = ownSession()
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		pid := filepath.Join(arg, strconv.Itoa(cmd.Process.Pid))
		for range 1000 {
			if _, err := os.Stat(pid); err == nil {
				return nil
			}
			time.Sleep(10 * time.Millisecond)
		}
		return fmt.Errorf("the child does not start")
	case "args":
		dir, err := os.Getwd()
		if err != nil {
			return err
		}
		return os.WriteFile(arg, []byte(strings.Join(append(os.Args[1:], dir), "\n")), 0o600)
	case "copy":
		from, to, _ := strings.Cut(arg, ">")
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		return os.WriteFile(to, b, 0o600)
	case "once":
		f, err := os.OpenFile(arg, os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil {
			return err
		}
		f.Close()
		os.Exit(1)
	case "exit":
		n, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		os.Exit(n)
	case "crash":
		p, err := os.FindProcess(os.Getpid())
		if err != nil {
			return err
		}
		if err := p.Kill(); err != nil {
			return err
		}
		time.Sleep(time.Minute)
	case "hang":
		time.Sleep(time.Hour)
	default:
		return fmt.Errorf("unknown step")
	}
	return nil
}

// Alive lists the processes that left their ids in dir and still run. A zombie
// does not run. It knows only on Linux; elsewhere the list is empty.
func Alive(dir string) ([]int, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, err
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// The state stands behind the name, which may itself hold parentheses.
		_, state, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
		if !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
