#!/usr/bin/env bash
# Makes the two interventions of docs/studies/steering.md again; their tables are in the provenance of each file.
set -euo pipefail
for pull in 0.02:80 0.5:120; do
    circuitgraph steer --model smollm2-135m --task ioi --train-size 128 --validation-size 8 --test-size 100 \
        --steps "${pull#*:}" --batch-size 4 --sparsity "${pull%:*}" --strengths=-1.5,-1,-0.5,-0.25,0,0.25,0.5,1,1.5 \
        --out "${1:-runs}/steer-${pull%:*}.json"
done
