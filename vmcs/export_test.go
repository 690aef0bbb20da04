package vmcs

// Mutate plants a mistake in a rule until restore is called: the rule then says
// what mutation makes of its own answer.
func Mutate(id string, mutation func(holds bool) bool) (restore func()) {
	r := LookupRule(id)
	ok := r.ok
	r.ok = func(c *checker) bool { return mutation(ok(c)) }
	return func() { r.ok = ok }
}

// Reads returns the fields that a rule looks at in a check of r.
func Reads(k *Checker, r Reader, rule *Rule) (fields []Field) {
	c := &k.c
	c.start(k, r)
	c.tracking, c.missing, c.touched = true, false, [len(c.touched)]uint64{}
	rule.ok(c)
	c.tracking = false
	for i := range fieldTable {
		if c.touched[i/64]>>(i%64)&1 != 0 {
			fields = append(fields, fieldTable[i].field)
		}
	}
	return fields
}
