package vmcs

// Mutate plants a mistake in a rule until restore is called: the rule then says
// what mutation makes of its own answer.
func Mutate(id string, mutation func(holds bool) bool) (restore func()) {
	r := LookupRule(id)
	ok := r.ok
	r.ok = func(c *checker) bool { return mutation(ok(c)) }
	return func() { r.ok = ok }
}
