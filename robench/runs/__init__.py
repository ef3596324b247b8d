"""One run of any stages: models x stages x images, in one loop, with a state that a killed run goes on from.

The contract of a stage. A kind of stage is a file in `runs.stages` with a function that makes a `runs.types.Stage`. Its `begin(case)`
makes the stage ready for one model: it refuses with an InputError what cannot be measured on that model, and returns a
`runs.types.ReadyStage`. Before the first image, every stage is made ready for every model on trial, and again when its turn comes. Its
`on(ledger, subject)` says which images the stage is for, by what earlier stages have found; `source` says whose images it is given, and
`images` which it shows to others where no model has to be asked. `measure(chunk)` is the one function that a new kind has to write: it
yields a `runs.types.Outcome` for each level, with one value an image in each column. What it yields depends on pixels, labels, ids and
the seed, not on how the images are cut into chunks or shared among processes, but for the last bits of logits.

`runs.loop` calls the stages and hands what they find to the journal (`runs.store`) and the ledger (`runs.ledger`). Rows and tables are
made from the ledger, by `results`.
"""
