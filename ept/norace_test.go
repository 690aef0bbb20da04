//go:build !race

package ept_test

const raceDetector = false
