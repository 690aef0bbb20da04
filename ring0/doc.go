// Package ring0 boots an ordinary Go program in ring 0.
package ring0
