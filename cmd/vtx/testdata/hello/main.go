// Hello does a little of everything that a test of vtx boot wants to see.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/govtx/vtx/asm"
	"github.com/govtx/vtx/ring0"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println("hello, ring 0:", ring0.Active())
		return
	}
	switch arg := func(i int) string {
		if i < len(os.Args) {
			return os.Args[i]
		}
		return ""
	}; os.Args[1] {
	case "exit":
		n, err := strconv.Atoi(arg(2))
		if err != nil {
			panic(err)
		}
		fmt.Println("out")
		fmt.Fprintln(os.Stderr, "err")
		os.Exit(n)
	case "env":
		fmt.Println(os.Getenv(arg(2)))
	case "args":
		fmt.Printf("%q\n", os.Args[2:])
	case "write":
		if err := os.WriteFile(arg(2), []byte(arg(3)), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "print":
		n, err := strconv.Atoi(arg(2))
		if err != nil {
			panic(err)
		}
		w := bufio.NewWriter(os.Stdout)
		for i := range n {
			fmt.Fprintln(w, "line", i)
		}
		w.Flush()
	case "flood":
		for {
			fmt.Println("more and more and more")
		}
	case "hang":
		fmt.Println("hanging")
		for {
		}
	case "sleep":
		d, err := time.ParseDuration(arg(2))
		if err != nil {
			panic(err)
		}
		time.Sleep(d)
		fmt.Println("slept", d)
	case "panic":
		panic("on purpose")
	case "modules":
		for _, m := range ring0.Modules() {
			fmt.Printf("%s: %s\n", m.Name, m.Data)
		}
	case "serial": // lines on standard output, and on COM1 with 8 bits a character
		asm.OUT8(0x3fb, 3)
		for i := range 20 {
			fmt.Println("program", i)
			for _, c := range fmt.Appendf(nil, "port %d\r\n", i) {
				for asm.IN8(0x3fd)&0x40 == 0 {
				}
				asm.OUT8(0x3f8, c)
			}
		}
		for asm.IN8(0x3fd)&0x40 == 0 {
		}
	case "time":
		fmt.Println(time.Now().UTC().Format(time.DateOnly))
	default:
		fmt.Fprintln(os.Stderr, "unknown request", os.Args[1])
		os.Exit(2)
	}
}
