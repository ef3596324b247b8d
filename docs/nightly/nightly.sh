#!/usr/bin/env bash
# One night: evaluates a model, compares it with the nights before, writes a page, and ends as the comparison did.
# docs/nightly.md explains it line by line. It needs bash, coreutils (timeout, sort -V), and robench on the PATH.
set -euo pipefail

model=${NIGHTLY_MODEL:?set NIGHTLY_MODEL to the model that is measured}
data=${NIGHTLY_DATA:-}             # a data set; empty: that of the checkpoint
suite=${NIGHTLY_SUITE:-autoattack} # suites and recipes, as for robench eval --suite
n=${NIGHTLY_N:-500}                # images
seed=${NIGHTLY_SEED:-0}
gates=${NIGHTLY_GATES:-}           # one a line, as for robench compare --fail-on; empty: any drop of the verdict
last=${NIGHTLY_LAST:-7}            # nights that tonight is compared with
baseline=${NIGHTLY_BASELINE:-}     # a results folder that tonight is compared with, too
folder=${NIGHTLY_FOLDER:-nights}   # what is kept from night to night
out=${NIGHTLY_OUT:-nightly-report} # page, step summary, JUnit and JSON of tonight
night=${NIGHTLY_NIGHT:-$(date +%Y-%m-%d)} # the name of tonight: a night that is started again under its name goes on
keep=${NIGHTLY_KEEP:-60}           # nights that are kept
minutes=${NIGHTLY_MINUTES:-300}    # after which the evaluation is ended, to go on at the next start
fresh=${NIGHTLY_FRESH:-false}      # true: tonight is compared with nothing that was before
read -ra eval_words <<< "${NIGHTLY_EVAL:-}"       # more words for robench eval, such as --eps 8/255 --threads 1
read -ra compare_words <<< "${NIGHTLY_COMPARE:-}" # and for robench compare, such as --strict --alpha 0.01

tell() { # an output of a GitHub action
  echo "$1: $2"
  if [ -n "${GITHUB_OUTPUT:-}" ]; then echo "$1=$2" >> "$GITHUB_OUTPUT"; fi
}

run_to_end() { # a command that is sent on the SIGTERM that this script gets, and whose state is on the disk before the script ends
  "$@" &
  child=$!
  trap 'kill -TERM "$child" 2> /dev/null || true' TERM INT
  code=0
  wait "$child" || code=$?
  while kill -0 "$child" 2> /dev/null; do
    code=0
    wait "$child" || code=$?
  done
  trap - TERM INT
  return "$code"
}

mkdir -p "$folder/good" "$folder/fell" "$folder/before" "$out"
rm -f "$out/compare.md" "$out/junit.xml" "$out/compare.json" # of the night before
tonight=$folder/good/$night
tell night "$tonight"
tell report "$out"

if [ "$fresh" = true ]; then # nights of before stay on the page, and are no bases any more
  find "$folder/good" "$folder/fell" -mindepth 1 -maxdepth 1 -type d ! -path "$tonight" -exec mv -t "$folder/before" {} +
fi

if [ -d "$folder/fell/$night" ] && [ ! -e "$tonight" ]; then # the same night again: it is shown and compared again
  mv "$folder/fell/$night" "$tonight"
fi
code=0
run_to_end timeout --foreground --kill-after=60 "${minutes}m" \
  robench eval "$model" ${data:+--data "$data"} --suite "$suite" --n "$n" --seed "$seed" "${eval_words[@]}" --out "$tonight" --resume || code=$?
if [ "$code" -ne 0 ]; then
  tell verdict unfinished
  exit "$code"
fi

nights=()
while IFS= read -r one; do
  if [ -f "$one/manifest.json" ] && [ "$one" != "$tonight" ]; then nights+=("$one"); fi
done < <(find "$folder/good" -mindepth 1 -maxdepth 1 -type d | sort -V)
if [ -n "$baseline" ]; then
  from=$((${#nights[@]} > last ? ${#nights[@]} - last : 0))
  runs=("$baseline" "${nights[@]:from}" "$tonight")
else
  runs=("$folder/good" "$tonight" --last "$last")
fi
fail_on=()
while IFS= read -r gate; do
  if [ -n "${gate// /}" ]; then fail_on+=(--fail-on "$gate"); fi
done <<< "$gates"

if [ -z "$baseline" ] && [ "${#nights[@]}" -eq 0 ]; then
  verdict=first
  echo "There is no night before this one: it is the first base."
else
  robench compare "${runs[@]}" "${fail_on[@]}" "${compare_words[@]}" \
    --markdown "$out/compare.md" --junit "$out/junit.xml" --json "$out/compare.json" || code=$?
  case $code in 0) verdict=passed ;; 1) verdict=fell ;; *) verdict=error ;; esac
fi

if [ "$code" -ne 0 ]; then # a night that fell is no base of the next ones: they stay red until it is repaired, or accepted by fresh
  mv "$tonight" "$folder/fell/$night"
  tonight=$folder/fell/$night
  tell night "$tonight"
fi
for kind in good fell before; do
  find "$folder/$kind" -mindepth 1 -maxdepth 1 -type d | sort -V | head -n "-$keep" | while IFS= read -r old; do rm -rf "$old"; done
done
robench report "$folder" --out "$out/report.html" --force --quiet || echo "The page could not be written."
tell verdict "$verdict"
exit "$code"
