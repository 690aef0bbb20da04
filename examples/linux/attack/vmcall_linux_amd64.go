package main

// vmcall executes VMCALL with the word of a VTL call.
func vmcall()
