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

write_page() { # with what the page shows of the comparison
  robench report "$folder" --out "$out/report.html" --force --quiet "$@"
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

judged="good fell unjudged" # where a night goes when it is over
mkdir -p "$folder/tonight" "$folder/good" "$folder/fell" "$folder/unjudged" "$folder/before" "$out"
rm -f "$out/report.html" "$out/compare.md" "$out/junit.xml" "$out/compare.json" # of the night before
tonight=$folder/tonight/$night
tell night "$tonight"
tell report "$out"

for kind in $judged; do # the same night again: it is shown and compared again
  if [ -e "$folder/$kind/$night" ]; then
    mv -T "$folder/$kind/$night" "$tonight" || { tell verdict error; exit 2; }
  fi
done
if [ "$fresh" = true ]; then # nights of before stay on the page, and are no bases any more
  find "$folder/good" "$folder/fell" "$folder/unjudged" -mindepth 1 -maxdepth 1 -type d -exec mv -t "$folder/before" {} +
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
  if [ -f "$one/manifest.json" ]; then nights+=("$one"); fi
done < <(find "$folder/good" -mindepth 1 -maxdepth 1 -type d | sort -V)
bases=("$folder/good")
last_words=(--last "$last")
if [ -n "$baseline" ]; then
  from=$((${#nights[@]} > last ? ${#nights[@]} - last : 0))
  bases=("$baseline" "${nights[@]:from}")
  last_words=()
fi
fail_on=()
page_words=()
while IFS= read -r gate; do
  if [ -n "${gate// /}" ]; then
    fail_on+=(--fail-on "$gate")
    page_words+=(--gate "$gate")
  fi
done <<< "$gates"
for place in "${!compare_words[@]}"; do # what the page needs of NIGHTLY_COMPARE, to say what the comparison said
  case ${compare_words[place]} in
    --alpha) page_words+=(--alpha "${compare_words[place + 1]:-}") ;;
    --alpha=*) page_words+=("${compare_words[place]}") ;;
    --fail-on) page_words+=(--gate "${compare_words[place + 1]:-}") ;;
    --fail-on=*) page_words+=(--gate "${compare_words[place]#--fail-on=}") ;;
  esac
done

if [ -z "$baseline" ] && [ "${#nights[@]}" -eq 0 ]; then
  verdict=first
  page_words=()
  echo "There is no night before this one: it is the first base."
else
  robench compare "${bases[@]}" "$tonight" "${last_words[@]}" "${fail_on[@]}" "${compare_words[@]}" \
    --markdown "$out/compare.md" --junit "$out/junit.xml" --json "$out/compare.json" || code=$?
  case $code in 0) verdict=passed ;; 1) verdict=fell ;; *) verdict=error ;; esac
  for base in "${bases[@]}"; do page_words+=(--base "$base"); done
  page_words+=("${last_words[@]}")
fi

# Only a night that passed is a base of the next ones. They stay red until it is repaired, or accepted by fresh.
case $verdict in passed | first) kind=good ;; fell) kind=fell ;; error) kind=unjudged ;; esac
mv -T "$tonight" "$folder/$kind/$night"
tell night "$folder/$kind/$night"
if [ "$verdict" = error ]; then
  echo "The night could not be judged: it lies in $folder/$kind/$night, and the page shows it without gates."
  write_page || echo "The page could not be written."
else
  write_page "${page_words[@]}" || write_page || echo "The page could not be written."
fi
for kind in tonight $judged before; do
  find "$folder/$kind" -mindepth 1 -maxdepth 1 -type d | sort -V | head -n "-$keep" | while IFS= read -r old; do rm -rf "$old"; done
done
tell verdict "$verdict"
exit "$code"
