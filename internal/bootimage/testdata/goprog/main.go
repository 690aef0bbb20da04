// Command goprog is an ordinary Go program that carries a boot mark. Booted, it
// writes a frame with its message to port E9 and ends; see entry_amd64.s.
package main

// message is filled in by the linker: it is in the program's data, and its text
// in the read-only data.
var message = "loaded as linked\n"

func main() { println(message, mark()) }
