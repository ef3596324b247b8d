#!/usr/bin/env bash
# What cron starts: the settings of your nights. Beside it lie nightly.sh, the model, and an environment with robench in venv/.
# Its output goes to nightly.log; where the night does not pass, the end of it goes to cron, which mails it.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck disable=SC1091
. venv/bin/activate
export NIGHTLY_MODEL=${NIGHTLY_MODEL:-model.pt} NIGHTLY_SUITE=${NIGHTLY_SUITE:-fast} NIGHTLY_N=${NIGHTLY_N:-500}
export NIGHTLY_GATES=${NIGHTLY_GATES:-"clean:drop>1%
fast:drop>1%
flag:*"}
page=${NIGHTLY_OUT:-nightly-report}/report.html
touch .started
code=0
flock --nonblock --conflict-exit-code 2 .lock bash nightly.sh >> nightly.log 2>&1 || code=$?
if [ "$code" -ne 0 ]; then
  echo "The night ended with exit code $code."
  if [ "$page" -nt .started ]; then echo "The page is $(realpath "$page")"; else echo "It wrote no page."; fi
  tail -n 40 nightly.log
fi
exit "$code"
