"""From the ledger of a run to rows and samples, one module a kind of stage."""
