package vmcs

//go:generate go run ./internal/gen
