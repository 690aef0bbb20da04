//go:build race

package ept_test

// raceDetector says that this is a build in which everything takes about ten times as long.
const raceDetector = true
