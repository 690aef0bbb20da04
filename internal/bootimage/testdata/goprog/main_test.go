package main

import "testing"

func TestMark(t *testing.T) {
	if mark() == nil {
		t.Fatal(message)
	}
}
