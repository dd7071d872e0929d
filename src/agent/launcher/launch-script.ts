/**
 * `launch.sh`: PID 1 of the runtime container. POSIX sh with built-ins and `sleep` alone, because it runs in whatever
 * image an engine comes in. A module, not a file beside the bundle, so that the agent is one file.
 *
 * It reads, in the folder that it lies in:
 * - `generation`: `<n>`, or `<n> now`. A launcher that begins takes n; one whose engine runs moves to n only on `now`
 *   (an engine about to be replaced with its container must not be started anew in the old image).
 * - `gen/<n>/start`: shell text that ends in `exec <engine> …`.
 * - `leave`: `<starts>`, the launcher that is to end with exit code 75, so that its container is begun anew.
 *
 * It writes `run/state`, first when it can be told to end: `<starts> <n> <pid> <crashes> <exit> <phase>`, where starts counts launchers, n and pid are those
 * of the engine (0 = none), crashes those of this launcher's engines, exit is the last exit code (-1 = none) and
 * phase is waiting, running, backoff or stopping.
 */
export const launchScript = `#!/bin/sh
# Starts the inference engine, keeps it running, replaces it when the agent says so, and ends on TERM alone.
set -u
# Before all else: process 1 of a container gets no signal for which it has no trap yet.
child=0
stopping=
term() {
  stopping=1
  if [ "$child" -ne 0 ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap term TERM INT

dir=\${0%/*}
starts=0
generation=0
crashes=0
code=-1
phase=waiting
leaving=
delay=1

tell() {
  echo "$starts $generation $child $crashes $code $phase" > "$dir/run/state" 2>/dev/null
}

# Half a second, cut short by a signal. An image whose sleep takes whole seconds only gets whole seconds.
nap=0.5
sleep 0.01 2>/dev/null || nap=1
tick() {
  sleep "$nap" &
  napper=$!
  wait "$napper" 2>/dev/null
}

# A child that has ended is reaped by the wait in tick, so this tells truly.
alive() {
  kill -0 "$child" 2>/dev/null
}

# Sets want and when; empty while the agent has written nothing.
look() {
  want=
  when=
  if [ -r "$dir/generation" ]; then read -r want when < "$dir/generation"; fi
  case $want in
    '' | *[!0-9]*) want= ;;
  esac
  leave=
  if [ -r "$dir/leave" ]; then read -r leave < "$dir/leave"; fi
  if [ "$leave" = "$starts" ]; then leaving=1; fi
}

begin() {
  if [ -n "$stopping" ]; then return; fi
  /bin/sh "$dir/gen/$generation/start" &
  child=$!
  ran=0
  phase=running
  tell
  # A TERM that came before child was set has not reached it.
  if [ -n "$stopping" ]; then kill -TERM "$child" 2>/dev/null; fi
}

reap() {
  wait "$child" 2>/dev/null
  code=$?
  child=0
}

# TERM, then KILL after 30 s: a hung engine ends too.
replace() {
  kill -TERM "$child" 2>/dev/null
  ticks=0
  while alive; do
    tick
    ticks=$((ticks + 1))
    if [ "$ticks" -eq 60 ]; then kill -KILL "$child" 2>/dev/null; fi
  done
  reap
}

if [ -r "$dir/run/state" ]; then read -r starts rest < "$dir/run/state"; fi
case $starts in
  '' | *[!0-9]*) starts=0 ;;
esac
starts=$((starts + 1))
tell

while [ -z "$stopping$leaving" ]; do
  look
  if [ -n "$leaving" ]; then break; fi
  if [ -z "$want" ]; then
    tick
    continue
  fi
  # After a crash the same again, unless the agent said now.
  if [ "$generation" -eq 0 ] || [ "$when" = now ]; then generation=$want; fi
  begin
  while alive && [ -z "$stopping" ]; do
    tick
    ran=$((ran + 1))
    # Two minutes without a crash forgive the crashes before.
    if [ "$ran" -eq 240 ]; then delay=1; fi
    look
    if [ -n "$leaving" ]; then break; fi
    if [ -n "$want" ] && [ "$want" != "$generation" ] && [ "$when" = now ]; then break; fi
  done
  if [ -n "$stopping" ]; then break; fi
  if alive; then
    replace
    delay=1
    continue
  fi
  reap
  crashes=$((crashes + 1))
  phase=backoff
  tell
  ticks=0
  crashed=$generation
  while [ -z "$stopping" ] && [ "$ticks" -lt "$delay" ]; do
    sleep 1 &
    wait $! 2>/dev/null
    ticks=$((ticks + 1))
    look
    if [ -n "$leaving" ]; then break; fi
    # A new generation may well be the cure: no need to wait longer.
    if [ -n "$want" ] && [ "$want" != "$crashed" ] && [ "$when" = now ]; then
      delay=0
      break
    fi
  done
  delay=$((delay * 2))
  if [ "$delay" -eq 0 ]; then delay=1; fi
  if [ "$delay" -gt 30 ]; then delay=30; fi
done

phase=stopping
tell
if [ -n "$leaving" ] && [ -z "$stopping" ]; then exit 75; fi
if [ "$child" -ne 0 ]; then
  # TERM once more: a child that had only just been forked may have missed the first. KILL after 30 s: a hung engine ends too.
  # Not after this launcher has ended: the number may be another's by then.
  (
    sleep 2
    kill -0 $$ && kill -TERM "$child"
    sleep 28
    kill -0 $$ && kill -KILL "$child"
  ) > /dev/null 2>&1 &
  watcher=$!
  # A second signal cuts the wait short, so it is repeated while the engine lives.
  while :; do
    wait "$child" 2>/dev/null
    code=$?
    alive || break
  done
  kill "$watcher" 2>/dev/null
  child=0
fi
tell
exit 0
`;
