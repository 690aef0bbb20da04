package main

// xsavec puts bytes into YMM8, and saves x87, SSE and AVX state by XSAVEC to an area of
// compactSize bytes, aligned to 64.
func xsavec(area *byte, ymm *[32]byte)
