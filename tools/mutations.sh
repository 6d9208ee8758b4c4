#!/usr/bin/env bash
# Mutation tests: changes one sign, index, factor or name of the program at a time, and checks that a test fails.
#
#   tools/mutations.sh [CRATE...]           all crates of the list below, or these; fails if fewer than 95 % are caught
#   tools/mutations.sh --check [CRATE...]   only checks that each mutated text is in its file exactly once (a second)
#
# Works on a copy, target/mutations, and shares the built dependencies in target/. Each mutant is a package of its own in
# the copy, so that one build makes all mutants that have the same tests. CARGO replaces the command `cargo`.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
copy=$here/target/mutations
read -ra cargo <<< "${CARGO:-cargo}"
# Random cases of each property, and what fills the disk.
export PROPTEST_CASES=16 CARGO_INCREMENTAL=0

check_only=
[[ ${1:-} != --check ]] || { check_only=1; shift; }
chosen=("$@")
crate= targets=() filters=() names=() caught=0 total=0 missing=0
declare -A caught_of total_of

# tests CRATE TARGET... [-- FILTER...]: the crate of the mutations that follow, and the tests that must catch them.
tests() {
    run
    crate=$1 targets=() filters=() names=()
    while shift && [[ $# -gt 0 && $1 != -- ]]; do targets+=("$1"); done
    filters=("${@:2}")
}

# mutate FILE FROM TO: replaces the only occurrence of FROM in crates/CRATE/src/FILE.
mutate() {
    [[ ${#chosen[@]} == 0 || " ${chosen[*]} " == *" $crate "* ]] || return 0
    local file=src/$1 from=$2 to=$3 found mutant
    found=$(FROM=$from perl -0ne 'print scalar(() = /\Q$ENV{FROM}\E/g)' "$here/crates/$crate/$file")
    if [[ $found != 1 ]]; then
        echo "found $found times in crates/$crate/$file, expected once: $from" >&2
        missing=$((missing + 1))
        return 0
    fi
    total=$((total + 1))
    [[ -z $check_only ]] || return 0
    total_of[$crate]=$((${total_of[$crate]:-0} + 1))
    names+=("$crate/$1: $from  ->  $to")
    mutant=$(new_mutant ${#names[@]})
    FROM=$from TO=$to perl -0pi -e 's/\Q$ENV{FROM}\E/$ENV{TO}/' "$mutant/$file"
}

# new_mutant NUMBER: copies the crate as the package ddpm-CRATE-mutant-NUMBER and prints its folder.
new_mutant() {
    local mutant=$copy/crates/$crate-mutant-$1
    # Links, which are broken where perl writes a new file.
    cp -rl "$copy/crates/$crate" "$mutant"
    NAME="ddpm-$crate" LIB="ddpm_$crate" perl -0pi -e \
        "s/\"\$ENV{NAME}\"/\"\$ENV{NAME}-mutant-$1\"/; s/\$/\n[lib]\nname = \"\$ENV{LIB}\"\n/" "$mutant/Cargo.toml"
    echo "$mutant"
}

# Builds the tests of the crate and of its mutants, and runs them.
run() {
    [[ ${#names[@]} -gt 0 ]] || return 0
    local packages=() i
    # Number 0 is not changed: its tests must pass.
    new_mutant 0 > "$copy/log"
    for i in $(seq 0 ${#names[@]}); do packages+=(-p "ddpm-$crate-mutant-$i"); done
    # With the program, so that crates on Burn are built with its features and Burn is built once.
    case $crate in
        unet | model | sample | evaluate | train) packages+=(-p ddpm-cli -p ddpm) ;;
    esac
    echo "== $crate ${targets[*]} ${filters[*]}"
    # Without debug information the crates of the copy are other files in target/ than those of the program.
    if ! (cd "$copy" && "${cargo[@]}" test --no-run --message-format json-render-diagnostics --target-dir "$here/target" \
        --config profile.dev.debug=false "${packages[@]}" "${targets[@]}") > "$copy/built" 2> "$copy/log"; then
        grep -A 12 '^error' "$copy/log" >&2
        echo "a mutant does not compile" >&2
        exit 1
    fi
    if ! passes 0; then
        tail -40 "$copy/log" >&2
        echo "the tests fail without a mutation" >&2
        exit 1
    fi
    for i in "${!names[@]}"; do
        if passes $((i + 1)); then
            echo "SURVIVED  ${names[$i]}"
        else
            echo "caught    ${names[$i]}"
            caught=$((caught + 1)) caught_of[$crate]=$((${caught_of[$crate]:-0} + 1))
        fi
    done
    perl -ne 'next unless m{"package_id":"[^"]*/crates/[^"]*-mutant-}; print "$1\n" while m{"(/[^"]*/deps/[^"]*)"}g' \
        "$copy/built" | xargs -r rm -f
    rm -r "$copy"/crates/"$crate"-mutant-*
    names=()
}

# passes NUMBER: whether the tests of a mutant pass. It may run forever.
passes() {
    local program found= mutant=$crate-mutant-$1
    while read -r program; do
        found=1
        (cd "$copy/crates/$mutant" && timeout 120 "$program" "${filters[@]}") > "$copy/log" 2>&1 || return 1
    done < <(MUTANT=$mutant perl -ne \
        'print "$1\n" if m{"package_id":"[^"]*/crates/\Q$ENV{MUTANT}\E#.*"executable":"([^"]+)"}' "$copy/built")
    [[ -n $found ]] || { echo "$mutant has no tests ${targets[*]}" >&2; exit 1; }
}

if [[ -z $check_only ]]; then
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -r "$here"/{Cargo.toml,Cargo.lock,crates} "$copy"
fi

tests diffusion --lib --tests
mutate binomial.rs 'zero = (1.0 - alpha * s_t)' 'zero = (1.0 + alpha * s_t)'
mutate binomial.rs '(1.0 + before * s_0)' '(1.0 - before * s_0)'
mutate binomial.rs 'prediction.one * if_one.zero' 'prediction.one * if_one.one'
mutate binomial.rs 'schedule.alpha_cumprod(t) / before' 'schedule.alpha_cumprod(t) * before'
mutate binomial.rs 'keep * bit.one + 0.5 * beta' 'keep * bit.one + 0.6 * beta'
mutate binomial.rs '(if_one.one - reverse.one) / range' '(if_one.one + reverse.one) / range'
mutate binomial.rs 'term(self.one, other.one)' 'term(self.one, other.zero)'
mutate product.rs 'level.sigma * level.sigma / level.alpha' 'level.sigma * level.sigma * level.alpha'
mutate product.rs 'mean + share * (other - mean)' 'mean - share * (other - mean)'
mutate product.rs 'noise / (level.alpha * level.alpha + noise)' 'noise / (level.alpha * level.alpha - noise)'
mutate product.rs 'neighbour[i] = bit;' 'neighbour[i] = !bit;'
mutate power_ema.rs '(gamma + 2.0).powi(2)' '(gamma + 2.0)'
mutate power_ema.rs '((a + b + 1.0) * late.time)' '((a + b) * late.time)'
mutate power_ema.rs 'others - 2.0 * p.dot' 'others - p.dot'
mutate bound.rs '+ log_variance + (x - mean).powi(2)' '- log_variance + (x - mean).powi(2)'
mutate bound.rs 'gaussian_nll(x, mean, log_variance) + log_scale' 'gaussian_nll(x, mean, log_variance) - log_scale'
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

tests data --test data -- resize::
mutate pixels.rs 'usize::from(rest % 4 == 3)' 'usize::from(rest % 2 == 1)'
mutate pixels.rs 'b * (255 - a) + 127) / 255' 'b * (255 - a)) / 255'
mutate pixels.rs 'u32::from(g) * 38470 + u32::from(b) * 7471' 'u32::from(b) * 38470 + u32::from(g) * 7471'
mutate pixels.rs '* 7471 + 0x8000' '* 7471'
mutate pixels.rs 'composite(r, a, br), composite(g, a, bg)' 'composite(g, a, br), composite(r, a, bg)'
mutate pixels.rs 'if target.width * height >= target.height * width' 'if target.width * height < target.height * width'
mutate pixels.rs '(top + y) * row + left * target.channels' '(top + y) * row + top * target.channels'
mutate pixels.rs 'out.fill(target.padding)' 'out.fill(0)'
tests data --test data -- crop::
mutate crop_box.rs '.skip(top).take(height)' '.skip(left).take(height)'
mutate crop_box.rs '&row[left * channels..]' '&row[top * channels..]'
mutate crop_box.rs 'height >= least_height && width >= least_width' 'height >= least_width && width >= least_height'
mutate pixels.rs 'self.part.is_none() && (height' 'self.part.is_some() || (height'
tests data --test data -- formats::
mutate raw.rs '[i % channels * area + i / channels]' '[(channels - 1 - i % channels) * area + i / channels]'
mutate formats/cifar.rs 'record[variant.label_bytes - 1]' 'record[0]'
mutate formats/npz.rs 'bytes.iter().rev().fold(0, digits)' 'bytes.iter().fold(0, digits)'
mutate formats/array.rs '[n, c @ (1 | 3 | 4), h, w] => ([n, h, w, c], true)' '[n, c @ (1 | 3 | 4), h, w] => ([n, w, h, c], true)'
mutate formats/idx.rs 'let [count, height, width] = read_header' 'let [count, width, height] = read_header'
tests data --test data -- mat::
mutate raw.rs 'let (channel, x) = (i / width, i % width);' 'let (channel, x) = (i % channels, i / channels);'
mutate formats/mat.rs '*label %= 10' '*label %= 11'
mutate formats/mat.rs '(1..=10).contains(label)' '(0..=10).contains(label)'
mutate mat5.rs '.next_multiple_of(8) - tag' '.next_multiple_of(4) - tag'
mutate mat5.rs "if is_big { '>' } else { '<' }" "if is_big { '<' } else { '>' }"
tests data --test data -- labels::
mutate formats/labels.rs 'names.iter().zip(0..).map(|(name, label)| (*name, label))' 'names.iter().rev().zip(0..).map(|(name, label)| (*name, label))'
tests data --test data -- grid::
mutate grid.rs '(index / columns * (height + gap), index % columns * (width + gap))' '(index % columns * (height + gap), index / columns * (width + gap))'
mutate grid.rs 'composite(value, a, 255)' 'composite(value, a, 0)'
tests data --test data -- points::
mutate points/scaling.rs '(x - self.mean[i % dims]) / self.scale' '(x + self.mean[i % dims]) / self.scale'
mutate points/scaling.rs '*scale += (x - mean) * (x - mean) / count' '*scale += (x - mean) * (x - mean)'
mutate points/scaling.rs 'scale.ln()' 'scale.abs()'
mutate points/shape.rs '9.75 * PI * PI' '9.25 * PI * PI'
mutate points/shape.rs '0.75 + 0.5625 - FRAC_1_PI' '0.75 + 0.5625 + FRAC_1_PI'
mutate points/shape.rs '2.25 * PI * PI' '2.25 * PI'
mutate points/shape.rs '2 * row + column % 2' '2 * row + column / 2'
mutate points/builtin.rs '1.0 - of_noise * self.noise * self.noise' '1.0 - of_noise * self.noise'
mutate points/density.rs '(v * v, 2.0 * v)' '(v * v, v)'
mutate points/density.rs '(2.0 * PI * variance).ln()' '(PI * variance).ln()'
mutate points/density.rs '-arm_angle(arm, radius)' 'arm_angle(arm, radius)'
mutate points/density.rs 'mass / (count * scale * scale)' 'mass / (count * scale)'
tests data --test data -- npz_arrays::
mutate npz_arrays.rs '(_, true) => bytes.as_chunks().0.iter().map(|&b| f64::from_be_bytes(b))' '(_, true) => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b))'

tests weights --test safetensors
mutate safetensors/write.rs '"data_offsets": [begin, end]' '"data_offsets": [begin, end - begin]'
mutate safetensors/write.rs 'next_multiple_of(8)' 'next_multiple_of(1)'
mutate safetensors/read.rs 'if first != begin' 'if first < begin'
mutate safetensors/read.rs 'bytes -= chunk.len();' 'bytes -= chunk.len() + 4;'
mutate dtype.rs 'Dtype::BF16 => from!(half::bf16' 'Dtype::BF16 => from!(half::f16'
mutate dtype.rs 'Dtype::I8 => from!(i8' 'Dtype::I8 => from!(u8'
tests weights --test torch
mutate torch/mod.rs 'at += stride;' 'at += size;'
mutate torch/mod.rs 'let begin = first + (tensor.offset * size) as u64;' 'let begin = first;'
mutate torch/mod.rs 'let mut at = tensor.offset;' 'let mut at = 0;'
mutate torch/mod.rs 'if self.big_endian {' 'if !self.big_endian {'
mutate torch/mod.rs 'let fits = size == 1 || stride == expected;' 'let fits = true;'
tests weights --lib
mutate families/transform.rs 'shape.rotate_right(2);' 'shape.rotate_right(1);'
mutate families/transform.rs 'data[(w * i + input) * o + output]' 'data[(w * o + output) * i + input]'
mutate families/transform.rs '(3 * head + part) * size' '(3 * part + head) * size'
mutate families/transform.rs '(0..columns).step_by(2).chain((1..columns).step_by(2))' '(1..columns).step_by(2).chain((0..columns).step_by(2))'
mutate names.rs '("query", "to_q"), ("key", "to_k")' '("query", "to_k"), ("key", "to_q")'
tests weights --test archive
mutate tensorflow/mod.rs '4 => offset = value.number()?' '5 => offset = value.number()?'
mutate tensorflow/table.rs 'rotate_right(15)' 'rotate_right(17)'

tests kernels --test network -- adam_matches group_norm_matches attention_matches upsampling_match
mutate optimizer.rs 'beta.powf(step.step as f64)' 'beta.powf(step.step as f64 + 1.0)'
mutate optimizer.rs 'root_correction: (1.0 / correction(beta2).sqrt()) as f32' 'root_correction: 1.0'
mutate optimizer.rs 'step.learning_rate / correction(beta1)' 'step.learning_rate / correction(beta2)'
mutate optimizer.rs 'v_gain: (1.0 - beta2)' 'v_gain: (1.0 - beta1)'
mutate optimizer.rs 'ema_gain: (1.0 - step.ema_decay)' 'ema_gain: (step.ema_decay)'
mutate resample.rs '(below[i] + below[c + i])' '(below[i] + below[i])'
mutate resample.rs 'lower.copy_from_slice(upper);' 'lower.fill(0.0);'
mutate attention.rs '1.0 / (self.head_dim as f32).sqrt()' '1.0 / (self.head_dim as f32)'
tests kernels --test network -- linear_attention
mutate linear_attention.rs 'scale(s, out, shape.scale());' ''
mutate linear_attention.rs 'scale(s, of_context, shape.scale());' ''
mutate linear_attention.rs 's.sub(s.load_up_to(dk), shared)' 's.add(s.load_up_to(dk), shared)'
mutate linear_attention.rs 'transpose(s, whole, of_head, turned);' 'turned.copy_from_slice(of_head);'
tests kernels --lib -- simd
mutate simd.rs '(product - (sum - of_c)) + (c - of_c)' '(product - (sum - of_c)) - (c - of_c)'
mutate simd.rs 'rest.abs() > 0.0 && bits & 1 == 0' 'rest.abs() > 0.0 && bits & 1 == 1'
mutate simd.rs '(rest.to_bits() ^ bits) >> 63 == 0' '(rest.to_bits() ^ bits) >> 63 == 1'

tests unet --test goldens -- stored_networks
mutate blocks.rs '(config.norm_num_groups, config.norm_eps)' '(config.norm_num_groups, 1e-5)'
mutate model.rs 'channels, config.norm_num_groups, config.norm_eps)' 'channels, config.norm_num_groups, 1e-5)'
mutate blocks.rs 'GroupNorm::new(init, channels, groups, config.norm_eps)' 'GroupNorm::new(init, channels, groups, 1e-5)'
mutate blocks.rs 'norm1: GroupNorm::new(init, c_in, groups, epsilon)' 'norm1: GroupNorm::new(init, c_in, 1, epsilon)'
mutate time_embedding.rs '10000f64.ln()' '1000f64.ln()'
mutate time_embedding.rs 'if cosines_first' 'if !cosines_first'
mutate time_embedding.rs 'half as f64 - self.freq_shift' 'half as f64 + self.freq_shift'
mutate time_embedding.rs 'let tau = 2.0 *' 'let tau = 1.0 *'
mutate time_embedding.rs 'Some(class) => embedding + class' 'Some(class) => embedding - class'
mutate blocks.rs 'ops::attention(q, k, v, self.heads)' 'ops::attention(k, q, v, self.heads)'
mutate blocks.rs 'before: padding, after: 1' 'before: 1, after: padding'
mutate blocks.rs 'let scale = config.mid_block_scale_factor;' 'let scale = 1.0;'
mutate ops/flex.rs '[half(0), half(channels)]' '[half(channels), half(0)]'
mutate ops/mod.rs 'Some(skip) => concat(x, skip)' 'Some(skip) => concat(skip, x)'
mutate model.rs 'x.mul_scalar(2.0).sub_scalar(1.0)' 'x.mul_scalar(2.0).sub_scalar(2.0)'
mutate ops/reference.rs 'pairs.mean_dim(4).mean_dim(2)' 'pairs.sum_dim(4).mean_dim(2)'
tests unet --lib -- mlp
mutate mlp.rs '1u32 << k' '2u32 << k'
mutate mlp.rs 'argument.clone().sin(), argument.cos()' 'argument.clone().cos(), argument.sin()'
mutate mlp.rs 'self.blocks * 3 *' 'self.blocks * 2 *'
tests unet --lib -- dropout
mutate blocks.rs '(block as u64) << 32' '(1u64) << 32'
mutate blocks.rs 'self.step, p as f32' 'self.step, 0.5 * p as f32'

tests unet --test lucidrains
mutate time_embedding.rs '(half as f64 - 1.0)' '(half as f64)'
mutate lucidrains/model.rs 'ops::concat(prediction.unwrap_or_else(|| x.zeros_like()), x)' 'ops::concat(x.clone(), prediction.unwrap_or_else(|| x.zeros_like()))'
mutate lucidrains/model.rs 'conv.forward(x, ops::upsample2x)' 'conv.forward(x, |x| x.flip([1]).flip([1]))'
mutate lucidrains/attention.rs 'vec![memory_k, k]' 'vec![k, memory_v.clone()]'
mutate lucidrains/attention.rs '(h * w) as f64' '(h + w) as f64'
mutate layers.rs 'let centered = x.clone() - mean(x);' 'let centered = x;'
mutate lucidrains/layers.rs 'stride: 2, before: 1, after: 1' 'stride: 2, before: 0, after: 2'
mutate lucidrains/layers.rs 'self.block2.forward(h, None, None)' 'self.block2.forward(h, None, Some(self.mlp.forward(pass.time.clone())))'
mutate lucidrains/config.rs '_ => level + 1 == self.dim_mults.len()' '_ => level == self.dim_mults.len()'

tests weights --lib -- lucidrains
mutate families/lucidrains.rs '|snr| snr + 1.0' '|snr| snr'

tests model --test seam
mutate guidance.rs 'unconditional + difference' 'conditional.output().clone() + difference'
tests model --test images
mutate images.rs 'f32::from(byte) / 127.5 - 1.0' 'f32::from(byte) / 128.0 - 1.0'
mutate images.rs '.clamp(0.0, 255.0).round_ties_even()' '.clamp(0.0, 255.0)'
mutate images.rs 'image.iter().skip(channel)' 'image.iter().skip(self.channels - 1 - channel)'

tests sample --lib -- bits
mutate bits.rs 'steps.timesteps.len() - 1 - row' 'row'
tests sample --lib -- products_with
mutate product.rs '(y.clone() - denoised.sample())' '(y.clone() + denoised.sample())'
mutate product.rs 'row_sums * column(&sample_shift)' 'row_sums / column(&sample_shift)'
tests sample --test diffusers
mutate solve.rs 'mul_scalar(0.5 * (max - min))' 'mul_scalar(max - min)'
mutate solve.rs 'log_variance.mul_scalar(0.5).exp()' 'log_variance.exp()'
tests sample --test oracles -- deterministic steps_have
mutate solve.rs 'samples.truncate(table.history())' 'samples.truncate(1)'
mutate sampler.rs 'total.min(20)' 'total.min(19)'
tests sample --test editing
mutate solve.rs 'row.node.timestep >= shared.until' 'row.node.timestep > shared.until'
mutate noise.rs 'image[c * height * width + pixel]' 'image[pixel * channels + c]'
mutate noise.rs 'level.q_sample(&image.pixels, epsilon, x_t)' 'level.q_sample(epsilon, &image.pixels, x_t)'
mutate invert.rs 'i * last / (steps - 1)' 'i * last / steps'
mutate invert.rs '127.5 * (square' '255.0 * (square'
tests sample --lib -- scatter
mutate scatter.rs 'self.center[1] + self.half - unit * row' 'self.center[1] - self.half + unit * row'
mutate scatter.rs '(center[1] + half - y) * scale' '(center[1] + half + y) * scale'
tests sample --lib -- interpolate
mutate interpolate.rs 'Mix::Linear => (1.0 - lambda, lambda)' 'Mix::Linear => (lambda, 1.0 - lambda)'
mutate interpolate.rs '(lambda * angle).sin() / angle.sin())' '(lambda * angle).sin())'

tests evaluate --lib -- bits
mutate bits.rs 'chain.timesteps.len() - 1 - row;' 'chain.timesteps.len() - 2 - row.min(2);'
mutate bits.rs 'term / chain.draws as f64' 'term * chain.draws as f64'
tests evaluate --test evaluate -- likelihood::
mutate bound.rs 'let index = chain.timesteps.len() - 1 - place.row;' 'let index = place.row;'
mutate bound.rs 'samples.len() as f64, decoder })' '(samples.len() - 1) as f64, decoder })'
mutate bound.rs 'rate: bits_per_dim - distortion' 'rate: bits_per_dim'
mutate bound.rs 'posterior.coef_x0 * sample + posterior.coef_xt' 'posterior.coef_x0 * sample - posterior.coef_xt'
mutate bound.rs '(point.mse.len() as f64 * count)' 'count'
mutate likelihood.rs '(n - 1.0).max(1.0)' 'n'
mutate likelihood.rs 'rates.sum::<f64>() / std::f64::consts::LN_2' 'rates.sum::<f64>()'
mutate likelihood.rs 'rate += point.bits;' 'rate -= point.bits;'
tests evaluate --test evaluate -- flow::
mutate flow.rs '- alpha.ln() + unit' '+ alpha.ln() + unit'
mutate flow.rs 'Values::Bytes => 127.5_f64.ln()' 'Values::Bytes => 127.5_f64'
mutate flow.rs '(u - 0.5) / 127.5' 'u / 127.5'
mutate flow.rs '-log_density / size as f64' '-log_density'
mutate flow.rs '1.0 / probes as f64' '1.0'
tests evaluate --test evaluate -- points::
mutate flow.rs 'Values::Reals { log_scale } => log_scale' 'Values::Reals { log_scale } => -log_scale'
mutate flow.rs 'map(|&x| alpha * f64::from(x))' 'map(|&x| f64::from(x))'
mutate bound.rs 'then_some(dims as f64 * bits_per_dim)' 'then_some(dims as f64 / bits_per_dim)'
tests evaluate --test evaluate -- evaluation::even_timesteps
mutate bound.rs 'i * (num_train_timesteps - 1) / (steps - 1).max(1)' 'i * num_train_timesteps / steps'
tests evaluate --test evaluate -- quality::
mutate quality/frechet.rs 'trace_b - 2.0 * overlap' 'trace_b - overlap'
mutate quality/statistics.rs '1.0 / (self.count - 1) as f64' '1.0 / self.count as f64'
mutate quality/kernel_distance.rs '(n * (n - 1)) as f64' '(n * n) as f64'
mutate quality/kernel_distance.rs '(*x / width + 1.0).powi(3)' '(*x / width + 1.0).powi(2)'
mutate quality/manifold.rs 'select_nth_unstable_by(IMPROVED - 1' 'select_nth_unstable_by(IMPROVED'
mutate quality/manifold.rs 'const NAEEM: usize = 5;' 'const NAEEM: usize = 6;'
mutate quality/manifold.rs 'n * NAEEM as f64' 'n'
mutate quality/inception_score.rs '-p * p.ln()' 'p * p.ln()'
tests evaluate --lib -- quality network
mutate quality/nearest.rs 'distance: distances[index].sqrt()' 'distance: distances[index]'
mutate quality/nearest.rs 'm - 0.5 * (below + not_above)' 'm - (below + not_above)'
mutate quality/nearest.rs 'unseen[unseen.len() / 100]' 'unseen[unseen.len() / 10]'
mutate quality/distances.rs 'of_a[i] + square + product' 'of_a[i] + square - product'
mutate network/resize.rs '(i as f64 + 0.5) * scale - 0.5' '(i as f64 + 0.5) * scale'

tests train --lib -- bits
mutate bits.rs 'keep = 0.5 * (1.0 + schedule.alpha_cumprod(t))' 'keep = 0.5 * (1.0 - schedule.alpha_cumprod(t))'
mutate bits.rs '(entropy - cross)' '(entropy + cross)'
mutate bits.rs 'other: of(false)' 'other: of(true)'
mutate bits.rs 'b_t == b_0 { step.same }' 'b_t != b_0 { step.same }'
tests train --test arithmetic
mutate trainer.rs 'let n = self.state.updates as f64;' 'let n = self.state.updates as f64 + 1.0;'
mutate trainer.rs '(1.0 + n) / (10.0 + n)' '(1.0 + n) / (11.0 + n)'
mutate trainer.rs 'train.ema_decay.min((' 'train.ema_decay.max(('
mutate trainer.rs 'half_life.min(n * images' 'half_life.min(images'
mutate config.rs '((done + 1.0) / warmup).min(1.0)' '(done / warmup).min(1.0)'
mutate trainer.rs '0.5f64.powi(self.state.halvings' '0.1f64.powi(self.state.halvings'
mutate trainer.rs '(clip / (gradient_norm + 1e-6)).min(1.0)' '(clip / (gradient_norm + 1e-6)).max(1.0)'
mutate trainer.rs 'gradient_scale: clipped / passes as f64' 'gradient_scale: 1.0 / passes as f64'
mutate trainer.rs 'gradient_scale: clipped /' 'gradient_scale: clipped *'
mutate trainer.rs 'global_norm(&gradients) / passes as f64' 'global_norm(&gradients)'
mutate trainer.rs 'sum + mean / passes as f64' 'sum + mean'
mutate trainer.rs 'beta1: self.config.train.beta1' 'beta1: self.config.train.beta2'
mutate trainer.rs 'beta2: self.config.train.beta2' 'beta2: self.config.train.beta1'
mutate trainer.rs 'epsilon: self.config.train.adam_eps' 'epsilon: 1e-8'
mutate trainer.rs 'step: self.state.updates + 1' 'step: self.state.updates + 2'
mutate trainer.rs 'let learning_rate = self.learning_rate();' 'let learning_rate = self.config.train.learning_rate;'
mutate trainer.rs 'zip(&pass.weighted)' 'zip(&pass.each)'
mutate trainer.rs 'low_discrepancy(shared, place, *global_size' 'low_discrepancy(shared, place, images.n + 1'
mutate optimizer.rs 'average: parameter.values.clone()' 'average: parameter.values.zeros_like()'
mutate checkpoint.rs 'network.tensors_of(optimizer.averages())?' 'network.tensors()?'
mutate objective.rs '(weighted.clone() * importance).reshape' 'weighted.clone().reshape'
mutate objective.rs '(each.clone(), each * weights())' '(each.clone(), each)'
mutate objective.rs 'each.mul_scalar(self.process.schedule.len() as f64)' 'each'
mutate objective.rs 'bound.mul_scalar(scale)' 'bound'
mutate objective.rs 'schedule.level(t).q_sample(x0, epsilon, x_t)' 'schedule.level(t).q_sample(epsilon, x0, x_t)'
mutate from_config.rs 'LossWeight::MinSnr { gamma: self.diffusion.min_snr_gamma }' 'LossWeight::MinSnr { gamma: 5.0 }'
mutate from_config.rs 'norm_eps: keys.norm_eps' 'norm_eps: 1e-5'
mutate from_config.rs 'freq_shift: keys.freq_shift' 'freq_shift: 0.0'
mutate from_config.rs 'null_label: (self.train.label_dropout > 0.0).then(|| set.class_names().len() as u32)' 'null_label: (self.train.label_dropout > 0.0).then(|| set.class_names().len() as u32 - 1)'
tests train --test data_loader
mutate data_loader.rs 'step) < self.label_dropout' 'step) > self.label_dropout'
mutate data_loader.rs 'let no_class = set.class_names().len() as u32;' 'let no_class = set.class_names().len() as u32 - 1;'
mutate data_loader.rs 'random.below(Stream::Flip, place as u64, step, 2) == 1' 'random.below(Stream::Flip, place as u64, step, 3) == 1'
mutate data_loader.rs 'start + place as u64' 'start + place as u64 / 2'
mutate data_loader.rs 'step * self.global_size as u64' 'step * range.len() as u64'
mutate augment.rs 'row.swap(i * channels + c, (pixels - 1 - i) * channels + c)' 'row.swap(i * channels + c, (pixels - 1 - i) * channels + channels - 1 - c)'
tests train --test augment
mutate augment.rs 'Affine::rotation(-self.axis)' 'Affine::rotation(self.axis)'
mutate augment.rs 'coin < probability' 'coin > probability'
mutate augment.rs 'FILTER.iter().rev()' 'FILTER.iter()'
mutate augment.rs '2 * last - position' '2 * last - position - 1'
mutate augment.rs '-x * width as f64' 'x * width as f64'
mutate augment.rs 'self.rotation.cos() - 1.0' 'self.rotation.cos()'
tests train --lib -- power_ema
mutate power_ema.rs '.mul_scalar(1.0 - decay)' '.mul_scalar(decay)'
mutate power_ema.rs '*sum += weight *' '*sum -= weight *'
mutate power_ema.rs 'filter(|(of, _)| *of > step)' 'filter(|(of, _)| *of < step)'

run
for crate in "${!total_of[@]}"; do echo "$crate: ${caught_of[$crate]:-0} of ${total_of[$crate]} caught"; done | sort
if [[ $missing -gt 0 ]]; then
    echo "$missing mutations do not match the program" >&2
    exit 1
elif [[ -n $check_only ]]; then
    echo "$total mutations match the program"
else
    echo "$caught of $total caught"
    [[ $((caught * 100)) -ge $((total * 95)) ]]
fi
