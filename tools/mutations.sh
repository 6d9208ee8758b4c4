#!/usr/bin/env bash
# Changes a sign, an index or a factor in crate `diffusion`, twenty-six times, and checks that its tests fail.
#
#   tools/mutations.sh        works on a copy; prints each mutation and the total; fails if more than one survives
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$here"/Cargo.toml "$here"/Cargo.lock "$here"/crates "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$copy/target} PROPTEST_CASES=16

caught=0 total=0
# mutate FILE FROM TO replaces the first occurrence
mutate() {
    local file=$copy/crates/diffusion/src/$1 from=$2 to=$3
    cp "$file" "$copy/original"
    FROM=$from TO=$to perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{TO}/' "$file"
    if cmp -s "$file" "$copy/original"; then echo "not found in $1: $from" >&2; exit 1; fi
    total=$((total + 1))
    if (cd "$copy" && cargo test -q -p ddpm-diffusion --lib --tests > "$copy/log" 2>&1); then
        echo "SURVIVED  $1: $from  ->  $to"
    elif grep -q '^error\[\|could not compile' "$copy/log"; then
        echo "does not compile: $1: $from -> $to" >&2; exit 1
    else
        caught=$((caught + 1)); echo "caught    $1: $from  ->  $to"
    fi
    cp "$copy/original" "$file"
}

mutate schedule.rs   '*product *= 1.0 - beta;'                '*product *= 1.0 + beta;'
mutate posterior.rs  'coef_xt: alpha.sqrt() * noise_s / noise_t' 'coef_xt: alpha.sqrt() * noise_t / noise_s'
mutate noise_level.rs 'sigma: (1.0 - alpha_cumprod).sqrt()' 'sigma: (1.0 - alpha_cumprod)'
mutate posterior.rs  'let variance = noise_s / noise_t * beta;' 'let variance = noise_s / noise_t + beta;'
mutate bound.rs      '0.5 * (logvar2 - logvar1'               '0.5 * (logvar1 - logvar2'
mutate bound.rs      'inv_stdv * (x - mean + 1.0 / 255.0)'   'inv_stdv * (x - mean + 2.0 / 255.0)'
mutate bound.rs      'x > 0.999 { f64::INFINITY }'           'x > 9.999 { f64::INFINITY }'
mutate bound.rs      'posterior.coef_x0 * x0 + posterior.coef_xt' 'posterior.coef_x0 * x0 - posterior.coef_xt'
mutate variance.rs   'posterior.coef_x0.powi(2) * mse'        'posterior.coef_x0.powi(3) * mse'
mutate variance.rs   '0.5 * ((snr(alpha_cumprod_s) - snr'     '1.0 * ((snr(alpha_cumprod_s) - snr'
mutate solver.rs     'eta * Posterior::between'              'eta + Posterior::between'
mutate solver.rs     '1.0 - alpha_cumprod_s - noise * noise' '1.0 - alpha_cumprod_s + noise * noise'
mutate ode_solver.rs  'let phi3 = phi2 / h - 0.5;'             'let phi3 = phi2 / h + 0.5;'
mutate ode_solver.rs  'if self == Dpmpp3mDiffusers { 1.0 } else { 2.0 }' 'if self == Dpmpp3mDiffusers { 1.0 } else { 1.0 }'
mutate ode_solver.rs  'terms[1] -= weight;'                   'terms[1] += weight;'
mutate ode_solver.rs  '55.0 / 24.0, -59.0'                     '55.0 / 24.0, -58.0'
mutate mse_profile.rs  'let index = timesteps.len() - 1 - i;'   'let index = timesteps.len() - 2 - i;'
mutate mse_profile.rs  'log_variance - posterior.variance.ln() - 1.0' 'log_variance - posterior.variance.ln() + 1.0'
mutate mse_profile.rs  'mean(self.channels_at(pair[0])?'        'mean(self.channels_at(pair[1])?'
mutate solver.rs     'let missed = row.sample[0] - row'       'let missed = row.sample[0] + row'
mutate churn.rs      '(raised * raised - sigma * sigma)'      '(raised * raised + sigma * sigma)'
mutate churn.rs      'let scale = from.level.alpha / pair[0].level.alpha;' 'let scale = pair[0].level.alpha / from.level.alpha;'
mutate clip.rs       'ratio).max(1.0).min(max)'               'ratio).max(0.0).min(max)'
mutate oracle/multivariate.rs '*cell -= dot(gain, s_ab)'      '*cell += dot(gain, s_ab)'
mutate timestep_grid.rs '-between(root(high), root(low), share)' 'between(root(high), root(low), share)'
mutate oracle/gaussian.rs 'self.variance * (1.0 - alpha_cumprod)'  'self.variance * (1.0 + alpha_cumprod)'
echo "$caught of $total caught"
[[ $caught -ge $((total - 1)) ]]
