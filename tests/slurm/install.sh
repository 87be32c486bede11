#!/usr/bin/env bash
# Install what a cluster for tests consists of, from Debian's packages (Debian 13 or newer), asking
# nothing. No service is started. Where nothing can be installed, one line says what is missing.
set -euo pipefail

commands=(munged slurmctld slurmd slurmdbd sbatch mariadbd mariadb-install-db unshare)
packages=(munge slurmctld slurmd slurmdbd slurm-client mariadb-server-core mariadb-client-core util-linux)

PATH=$PATH:/usr/sbin:/sbin
missing=()
for command in "${commands[@]}"; do
    command -v "$command" >/dev/null || missing+=("$command")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "no Slurm cluster for tests: ${missing[*]} missing, and only root with apt-get can install them"
    exit 0
fi

# Packages ask this script whether they may start their services: 101 is no. Where the machine has
# such a policy of its own, that one stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${packages[@]}"
