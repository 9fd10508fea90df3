# Does the new champion stay? Input: what batch/watch.py says of its answers since the promotion.
#
# `log_e` is the largest natural log of a test martingale under "not worse than the former champion by more than the
# margin" (or, where there is none to ask, "loses no more than it promises"): it reaches log(1/alpha) with probability
# <= alpha, however often one looks. Anything that is no number leaves the champion where it is, and the watch open.
package driftline.watch

import rego.v1

limits := data.driftline.limits.watch

default verdict := "watch"

verdict := "rollback" if {
	worse
	input.former_loads == true
}

verdict := "alert" if { # worse, and nothing to go back to
	worse
	input.former_loads == false
}

verdict := "keep" if {
	not worse
	is_number(input.log_e)
	is_number(input.rows)
	input.rows >= limits.rows
}

verdict := "keep" if { # nobody records its answers
	not worse
	is_number(input.arrived)
	input.arrived >= limits.arrived
}

worse if {
	is_number(input.log_e)
	is_number(input.threshold)
	input.threshold > 0
	input.log_e >= input.threshold
}

answer := {"verdict": verdict}
