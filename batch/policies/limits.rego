# Every number that a decision about a model compares with. A change here changes the policy's version.
package driftline.limits

import rego.v1

promotion := {
	"confidence": 0.95, # of every bound
	"rows": 500, # labelled events that a decision needs, and that a slice or group needs to stand alone
	"margin": 0.005, # of the champion's loss: "not worse"
	"slice_margin": 0.05, # the same for one slice, and for recorded requests
	"material": 0.01, # of the champion's loss: three times the training rows alone are worth 0.7 %
	"live": 0.1, # of the promised loss: a champion's own calibration error moves the excess by up to 5 %, a harmful shift by 40 %
	"calibration": 0.05, # weighted mean gap between promised and observed share
	"group_margin": 0.03, # of a group's gap between promised and observed share: how much wider it may become
	"requests": 500, # recorded requests from which a replay is judged
	"lost": 0.1, # share of recorded requests whose row the lake should have and has not
	"disagreement": 0.25, # share of recorded requests that would be decided the other way
	"bytes": 16777216, # of a bundle
	"row_ms": 5.0, # CPU time of one row
	"batch_us": 100.0, # CPU time of a row of a batch
	"golden": 0.000000001, # largest difference of a golden row's score
}

watch := {
	"alpha": 0.01, # chance of a rollback of a champion that is not worse, over its whole watch
	"margin": 0.005, # of the former champion's loss
	"live": 0.1, # of the promised loss, where no former champion can be asked
	"rows": 20000, # labelled answers after which the watch ends
	"arrived": 200000, # labelled rows since the promotion after which it ends too: then hardly an answer is recorded
	"clip": 0.01, # scores are kept this far from 0 and 1: a bounded loss
}
