# May this challenger become champion? Input: the evidence that batch/gate.py and batch/compare.py gather.
#
# Everything is stated as what has passed, never as what has failed: evidence that is missing, null (NaN, infinite), of
# another type or of another kind passes nothing. Rego orders null and false before every number, so numbers are asked for.
package driftline.promotion

import rego.v1

limits := data.driftline.limits.promotion

default promote := false

promote if {
	count(required) > 0
	count(required - passed) == 0
}

# What must pass. By force a person takes the statistics upon themselves, never broken files.
safety := {"golden", "schema", "budget"}

required := safety if input.force == true

required := safety | {"rows", "numbers", "better", "calibration", "new"} if {
	input.kind == "first"
	input.force == false
}

required := safety | {"rows", "numbers", "better", "slices", "groups", "calibration", "lost", "replay", "new"} if {
	input.kind == "challenger"
	input.force == false
}

# --- files
passed contains "golden" if {
	is_number(input.golden.rows)
	input.golden.rows >= 1
	number_within(input.golden.worst, limits.golden)
}

passed contains "schema" if {
	is_array(input.schema.missing)
	count(input.schema.missing) == 0
	input.schema.label == true
}

passed contains "budget" if {
	number_within(input.cost.bytes, limits.bytes)
	number_within(input.cost.row_ms, limits.row_ms)
	number_within(input.cost.batch_us, limits.batch_us)
}

# --- statistics
passed contains "rows" if {
	is_number(input.overall.rows)
	input.overall.rows >= limits.rows
}

passed contains "numbers" if sound(input.overall)

passed contains "better" if basis

passed contains "slices" if {
	is_object(input.slices)
	every name, slice in input.slices {
		slice_passed(slice)
	}
}

passed contains "groups" if {
	is_object(input.groups)
	every name, group in input.groups {
		group_passed(group)
	}
}

passed contains "calibration" if number_within(input.calibration.challenger, limits.calibration)

passed contains "calibration" if { # not calibrated, yet better than what serves
	input.kind == "challenger"
	is_number(input.calibration.champion)
	number_within(input.calibration.challenger, input.calibration.champion)
}

passed contains "lost" if { # nobody wins on the few requests that can be asked again
	number_within(input.replay.lost, limits.lost * recorded)
}

passed contains "lost" if recorded < limits.requests # too few were recorded to say anything

recorded := input.replay.requests + input.replay.lost if {
	is_number(input.replay.requests)
	is_number(input.replay.lost)
	input.replay.requests >= 0
	input.replay.lost >= 0
}

passed contains "replay" if { # too few can be asked again to say anything
	is_number(input.replay.requests)
	input.replay.requests >= 0
	input.replay.requests < limits.requests
	input.replay.unscored == 0
}

passed contains "replay" if {
	is_number(input.replay.requests)
	input.replay.requests >= limits.requests
	input.replay.unscored == 0
	agrees
	replay_loss_passed
}

passed contains "new" if input.rolled_back == false # never again what was rolled back from

agrees if number_within(input.replay.disagreement, limits.disagreement)

agrees if {
	input.harm == "harmful" # then the champion's answers are what is wrong
	number_within(input.replay.disagreement, 1)
}

replay_loss_passed if { # too few of them have an outcome
	is_number(input.replay.loss.rows)
	input.replay.loss.rows < limits.requests
}

replay_loss_passed if {
	is_number(input.replay.loss.rows)
	below(input.replay.loss, limits.slice_margin)
}

# --- superior, or under shown harm not worse overall and superior after the shift
superior if below(input.overall, 0)

material if below(input.overall, 0 - limits.material)

needs_material if {
	input.episode == true
	input.harm != "harmful"
}

basis := "better" if {
	superior
	known_harm
	not needs_material
}

basis := "materially better" if {
	material
	known_harm
	needs_material
}

basis := "not worse overall and better after the shift" if {
	input.harm == "harmful"
	input.episode == true
	not superior
	below(input.overall, limits.margin)
	is_number(input.after.rows)
	input.after.rows >= limits.rows
	below(input.after, 0)
}

known_harm if {
	is_boolean(input.episode)
	input.harm in {"none", "unclear", "harmful"}
}

# --- the answer
denied contains code if some code in (required - passed)

denied contains concat("", ["slice ", name]) if {
	"slices" in required
	some name, slice in input.slices
	not slice_passed(slice)
}

denied contains concat("", ["group ", name]) if {
	"groups" in required
	some name, group in input.groups
	not group_passed(group)
}

denied contains "input" if not required

default said_basis := ""

said_basis := basis

default said_superior := false

said_superior if superior

default said_material := false

said_material if material

default said_needs := false

said_needs if needs_material

answer := {
	"promote": promote,
	"denied": denied,
	"basis": said_basis,
	"superior": said_superior,
	"material": said_material,
	"needs_material": said_needs,
}

slice_passed(slice) if {
	sound(slice)
	number_within(slice.p, 1 - limits.confidence)
}

group_passed(group) if number_within(group.wider, limits.group_margin) # shown not to be wider

group_passed(group) if { # nor shown to be wide at all: half a thousand rows cannot show more
	is_number(group.wider)
	number_within(group.low, limits.group_margin)
	number_within(0 - limits.group_margin, group.high)
}

sound(b) if {
	is_number(b.upper)
	is_number(b.loss)
	b.loss > 0
}

below(b, share) if {
	sound(b)
	b.upper < share * b.loss
}

number_within(x, most) if {
	is_number(x)
	is_number(most)
	x <= most
}
