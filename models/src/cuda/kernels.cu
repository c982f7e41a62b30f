// The kernels of the ops. NVRTC compiles this text when a GPU is first used, so a build needs no nvcc for it.
//
// Every kernel takes its tensors, then its whole numbers, then its real ones. Tensors are contiguous, row-major. A kernel
// writes each element of its results from one thread (or one warp), in an order that the shapes alone decide, so a
// result has the same bits in every run. No tensor has 2^31 elements or more (the launch checks), so that indices fit in
// 32 bits: divisions of longer ones are slow.

typedef unsigned int Int;
typedef unsigned int Id;
typedef unsigned long long Address;

// One thread per element.
#define ELEMENT (blockIdx.x * blockDim.x + threadIdx.x)
// One warp per row.
#define ROW (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32)
#define LANE (threadIdx.x % 32)
#define KERNEL extern "C" __global__ void

static __device__ float minus_infinity() {
    return __int_as_float(0xff800000);
}

static __device__ float warp_sum(float value) {
    for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(0xffffffff, value, apart);
    return value;
}

static __device__ float warp_max(float value) {
    for (int apart = 16; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, apart));
    return value;
}

static __device__ float logistic(float x) {
    return 1.0f / (1.0f + expf(-x));
}

// ---- element by element ----

KERNEL add_assign(float* into, const float* from, Int n) {
    if (ELEMENT < n) into[ELEMENT] += from[ELEMENT];
}

// x[r, c] += bias[c]
KERNEL add_bias(float* x, const float* bias, Int n, Int width) {
    if (ELEMENT < n) x[ELEMENT] += bias[ELEMENT % width];
}

// Numbers of the functions in ops/activation.rs.
#define GELU 0
#define SILU 1
#define RELU 2
#define TANH 3
#define SIGMOID 4

KERNEL activation(const float* x, float* out, Int n, Int function) {
    if (ELEMENT >= n) return;
    float v = x[ELEMENT];
    float y = 0.0f;
    if (function == GELU) y = v * normcdff(v);
    if (function == SILU) y = v * logistic(v);
    if (function == RELU) y = v > 0.0f ? v : 0.0f;
    if (function == TANH) y = tanhf(v);
    if (function == SIGMOID) y = logistic(v);
    out[ELEMENT] = y;
}

KERNEL activation_slopes(const float* grad, const float* x, const float* y, float* dx, Int n, Int function) {
    if (ELEMENT >= n) return;
    float v = x[ELEMENT], f = y[ELEMENT], s = logistic(v);
    float slope = 0.0f;
    if (function == GELU) slope = normcdff(v) + v * 0.3989422804f * expf(-0.5f * v * v);
    if (function == SILU) slope = f * (1.0f - s) + s;
    if (function == RELU) slope = v > 0.0f ? 1.0f : 0.0f;
    if (function == TANH) slope = 1.0f - f * f;
    if (function == SIGMOID) slope = f * (1.0f - f);
    dx[ELEMENT] = grad[ELEMENT] * slope;
}

KERNEL swiglu(const float* gate, const float* up, float* out, Int n) {
    if (ELEMENT < n) out[ELEMENT] = gate[ELEMENT] * logistic(gate[ELEMENT]) * up[ELEMENT];
}

KERNEL swiglu_slopes(const float* grad, const float* gate, const float* up, float* dgate, float* dup, Int n) {
    if (ELEMENT >= n) return;
    float g = gate[ELEMENT], s = logistic(g), y = g * s;
    dgate[ELEMENT] = grad[ELEMENT] * up[ELEMENT] * (y * (1.0f - s) + s);
    dup[ELEMENT] = grad[ELEMENT] * y;
}

// x [positions, heads, 2 half], angles [positions, 2, half]; sign −1 turns back. One thread per pair.
KERNEL rope(const float* x, const float* angles, float* out, Int pairs, Int heads, Int half, float sign) {
    if (ELEMENT >= pairs) return;
    Int head = ELEMENT / half, i = ELEMENT % half;
    const float* angle = angles + head / heads * 2 * half;
    float cosine = angle[i], sine = sign * angle[half + i];
    Int low = head * 2 * half + i, high = low + half;
    float a = x[low], b = x[high];
    out[low] = a * cosine - b * sine;
    out[high] = b * cosine + a * sine;
}

// ---- rows ----

// [batch, n, m, width] → [batch, m, n, width]. One thread per element, or (swap_axes_4) per four of them.
template <typename T>
static __device__ void swap_axes_of(const T* x, T* out, Int total, Int n, Int m, Int width) {
    if (ELEMENT >= total) return;
    Int c = ELEMENT % width, row = ELEMENT / width;
    Int i = row % n, j = row / n % m, batch = row / n / m;
    out[ELEMENT] = x[((batch * n + i) * m + j) * width + c];
}

KERNEL swap_axes(const float* x, float* out, Int total, Int n, Int m, Int width) {
    swap_axes_of(x, out, total, n, m, width);
}

KERNEL swap_axes_4(const float4* x, float4* out, Int total, Int n, Int m, Int width) {
    swap_axes_of(x, out, total, n, m, width);
}

// out[r] = table[ids[r]]
KERNEL gather_rows(const float* table, const Id* ids, float* out, Int n, Int width) {
    if (ELEMENT < n) out[ELEMENT] = table[ids[ELEMENT / width] * width + ELEMENT % width];
}

// out[ids[r]] = x[r], different ids
KERNEL scatter_rows(const float* x, const Id* ids, float* out, Int n, Int width) {
    if (ELEMENT < n) out[ids[ELEMENT / width] * width + ELEMENT % width] = x[ELEMENT];
}

// out[ids[u]] = the sum of the rows order[starts[u] .. starts[u + 1]] of x, in that order. One block per id.
KERNEL sum_rows_of_ids(const float* x, const Id* ids, const Id* starts, const Id* order, float* out, Int width) {
    Int u = blockIdx.x;
    for (Int c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0.0f;
        for (Id at = starts[u]; at < starts[u + 1]; at++) sum += x[order[at] * width + c];
        out[ids[u] * width + c] = sum;
    }
}

// Sums of columns over blocks of rows: x [rows, width] → out [blocks, width]. A block of 32 × 8 threads takes 32 columns.
KERNEL column_sums(const float* x, float* out, Int rows, Int width, Int rows_per_block) {
    __shared__ float parts[8][32];
    Int strips = (width + 31) / 32;
    Int block = blockIdx.x / strips, c = blockIdx.x % strips * 32 + LANE;
    Int end = min(rows, (block + 1) * rows_per_block);
    float sum = 0.0f;
    if (c < width) {
        for (Int r = block * rows_per_block + threadIdx.x / 32; r < end; r += 8) sum += x[r * width + c];
    }
    parts[threadIdx.x / 32][LANE] = sum;
    __syncthreads();
    if (threadIdx.x < 32 && c < width) {
        for (int i = 1; i < 8; i++) sum += parts[i][LANE];
        out[block * width + c] = sum;
    }
}

// ---- normalisation, one warp per row ----

// stats [rows, 2]: mean (0 when not centred) and 1 / deviation
KERNEL normalise(const float* x, const float* weight, const float* bias, float* out, float* stats, Int rows, Int width,
                 Int centred, Int biased, float eps) {
    Int row = ROW;
    if (row >= rows) return;
    x += row * width;
    out += row * width;
    float mean = 0.0f;
    if (centred) {
        for (Int i = LANE; i < width; i += 32) mean += x[i];
        mean = warp_sum(mean) / width;
    }
    float squares = 0.0f;
    for (Int i = LANE; i < width; i += 32) squares += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(warp_sum(squares) / width + eps);
    for (Int i = LANE; i < width; i += 32) {
        float y = (x[i] - mean) * factor * weight[i];
        out[i] = biased ? y + bias[i] : y;
    }
    if (LANE == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = factor;
    }
}

KERNEL norm_slopes(const float* grad, const float* x, const float* weight, const float* stats, float* dx, Int rows,
                   Int width, Int centred) {
    Int row = ROW;
    if (row >= rows) return;
    grad += row * width;
    x += row * width;
    dx += row * width;
    float mean = stats[2 * row], factor = stats[2 * row + 1], along = 0.0f, level = 0.0f;
    for (Int i = LANE; i < width; i += 32) {
        float h = grad[i] * weight[i];
        along += h * (x[i] - mean);
        level += h;
    }
    along = warp_sum(along) * factor / width;
    level = centred ? warp_sum(level) / width : 0.0f;
    for (Int i = LANE; i < width; i += 32) {
        dx[i] = (grad[i] * weight[i] - level - (x[i] - mean) * factor * along) * factor;
    }
}

// grad ⊙ x̂, whose column sums are the weight's gradient. One thread per element.
KERNEL norm_products(const float* grad, const float* x, const float* stats, float* out, Int n, Int width) {
    if (ELEMENT >= n) return;
    const float* of = stats + ELEMENT / width * 2;
    out[ELEMENT] = grad[ELEMENT] * (x[ELEMENT] - of[0]) * of[1];
}

// ---- attention, one warp per row of scores ----

// What row `row` of a block of scores is: rows are [batch · groups, queries · share], the block's first query `from`.
// sees [batch, all queries, 3]: query t sees key j if j < sees[0] or sees[1] ≤ j < sees[2].
static __device__ const Id* seen_by(const Id* sees, Int row, Int queries, Int share, Int groups, Int all, Int from) {
    Int head = row / (queries * share), t = from + row % (queries * share) / share;
    return sees + (head / groups * all + t) * 3;
}

static __device__ bool visible(const Id* sees, Int key) {
    return key < sees[0] || (sees[1] <= key && key < sees[2]);
}

// Scores of the keys first .. first + keys (rows of `stride` numbers) into weights, in place; their log-sums into
// log_sums [batch · groups, all · share].
KERNEL attention_weights(float* scores, const Id* sees, float* log_sums, Int rows, Int queries, Int share, Int groups,
                         Int all, Int from, Int first, Int keys, Int stride) {
    Int row = ROW;
    if (row >= rows) return;
    const Id* seen = seen_by(sees, row, queries, share, groups, all, from);
    scores += row * stride;
    float largest = minus_infinity();
    for (Int j = LANE; j < keys; j += 32) {
        if (visible(seen, first + j)) largest = fmaxf(largest, scores[j]);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
    for (Int j = LANE; j < keys; j += 32) {
        if (visible(seen, first + j)) sum += expf(scores[j] - largest);
    }
    sum = warp_sum(sum);
    float log_sum = sum > 0.0f ? largest + logf(sum) : 0.0f;
    for (Int j = LANE; j < keys; j += 32) {
        scores[j] = visible(seen, first + j) ? expf(scores[j] - log_sum) : 0.0f;
    }
    Int head = row / (queries * share);
    if (LANE == 0) log_sums[head * all * share + from * share + row % (queries * share)] = log_sum;
}

// Backward: scores into weights P and dP into scale · P ⊙ (dP − rowsum(out ⊙ grad)), in place. out and grad
// [batch · groups, all · share, dim].
KERNEL attention_slopes(float* scores, float* slopes, const Id* sees, const float* log_sums, const float* out,
                        const float* grad, Int rows, Int queries, Int share, Int groups, Int all, Int from, Int first,
                        Int keys, Int stride, Int dim, float scale) {
    Int row = ROW;
    if (row >= rows) return;
    const Id* seen = seen_by(sees, row, queries, share, groups, all, from);
    Int at = row / (queries * share) * all * share + from * share + row % (queries * share);
    scores += row * stride;
    slopes += row * stride;
    float along = 0.0f;
    for (Int i = LANE; i < dim; i += 32) along += out[at * dim + i] * grad[at * dim + i];
    along = warp_sum(along);
    float log_sum = log_sums[at];
    for (Int j = LANE; j < keys; j += 32) {
        float weight = visible(seen, first + j) ? expf(scores[j] - log_sum) : 0.0f;
        scores[j] = weight;
        slopes[j] = weight > 0.0f ? weight * (slopes[j] - along) * scale : 0.0f;
    }
}

// ---- log-probabilities of tokens, one block per row of logits ----

// Softmax in one pass: of the numbers seen so far the largest, Σ e^(z − largest) and Σ e^(z − largest) (z − largest).
struct Summary {
    float largest, sum, moment;
};

static __device__ Summary merged(Summary a, Summary b) {
    float largest = fmaxf(a.largest, b.largest);
    if (largest == minus_infinity()) return a;
    float down_a = a.largest - largest, down_b = b.largest - largest;
    float of_a = expf(down_a), of_b = expf(down_b);
    Summary out;
    out.largest = largest;
    out.sum = a.sum * of_a + b.sum * of_b;
    // −∞ · 0 of an empty part would be no number.
    out.moment = (a.sum > 0.0f ? of_a * (a.moment + down_a * a.sum) : 0.0f)
               + (b.sum > 0.0f ? of_b * (b.moment + down_b * b.sum) : 0.0f);
    return out;
}

// logits [rows, vocab] · cold → log_sums, entropy and log-probability of the target, [rows] each
KERNEL logit_summary(const float* logits, const Id* targets, float* logprobs, float* entropy, float* log_sums, Int vocab,
                     float cold) {
    __shared__ Summary parts[32];
    Int row = blockIdx.x;
    logits += row * vocab;
    Summary mine = {minus_infinity(), 0.0f, 0.0f};
    for (Int i = threadIdx.x; i < vocab; i += blockDim.x) {
        float z = logits[i] * cold;
        if (z > mine.largest) {
            Summary one = {z, 1.0f, 0.0f};
            mine = merged(mine, one);
        } else {
            float down = z - mine.largest, power = expf(down);
            mine.sum += power;
            mine.moment += power * down;
        }
    }
    for (int apart = 16; apart > 0; apart /= 2) {
        Summary other;
        other.largest = __shfl_xor_sync(0xffffffff, mine.largest, apart);
        other.sum = __shfl_xor_sync(0xffffffff, mine.sum, apart);
        other.moment = __shfl_xor_sync(0xffffffff, mine.moment, apart);
        mine = merged(mine, other);
    }
    if (LANE == 0) parts[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / 32; i++) mine = merged(mine, parts[i]);
        float log_sum = mine.largest + logf(mine.sum);
        log_sums[row] = log_sum;
        entropy[row] = logf(mine.sum) - mine.moment / mine.sum;
        logprobs[row] = logits[targets[row]] * cold - log_sum;
    }
}

// Logits into grad · d logprob / d logit = grad · cold · (1[target] − p), in place. One thread per element; without
// `weighted`, grad is 1.
KERNEL logit_slopes(float* logits, const Id* targets, const float* log_sums, const float* grad, Int n, Int vocab,
                    Int weighted, float cold) {
    if (ELEMENT >= n) return;
    Int row = ELEMENT / vocab;
    float factor = weighted ? grad[row] * cold : cold;
    float p = expf(logits[ELEMENT] * cold - log_sums[row]);
    float hit = ELEMENT % vocab == targets[row] ? 1.0f : 0.0f;
    logits[ELEMENT] = factor * (hit - p);
}

// ---- optimiser: many tensors in one launch, `blocks` blocks each ----

// tensors [n, 2]: address and number of elements; out [n, blocks] sums of squares
KERNEL squares(const Address* tensors, double* out, Int blocks) {
    __shared__ double parts[8];
    Int tensor = blockIdx.x / blocks, block = blockIdx.x % blocks;
    const float* x = (const float*)tensors[2 * tensor];
    Int n = tensors[2 * tensor + 1];
    double sum = 0.0;
    for (Int i = block * blockDim.x + threadIdx.x; i < n; i += blocks * blockDim.x) sum += (double)x[i] * x[i];
    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffff, sum, apart);
    if (LANE == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < 8; i++) sum += parts[i];
        out[blockIdx.x] = sum;
    }
}

// tensors [n, 5]: addresses of weight, mean, square and gradient, number of elements; rules [n, 4]: clip, decay, step
// size, root
KERNEL adamw(const Address* tensors, const float* rules, Int blocks, float mean_weight, float square_keep,
             float square_weight, float eps) {
    Int tensor = blockIdx.x / blocks, block = blockIdx.x % blocks;
    const Address* at = tensors + 5 * tensor;
    float *weight = (float*)at[0], *mean = (float*)at[1], *square = (float*)at[2];
    const float* grad = (const float*)at[3];
    Int n = at[4];
    const float* rule = rules + 4 * tensor;
    float clip = rule[0], decay = rule[1], step_size = rule[2], root = rule[3];
    for (Int i = block * blockDim.x + threadIdx.x; i < n; i += blocks * blockDim.x) {
        float g = grad[i] * clip;
        float m = mean[i] + mean_weight * (g - mean[i]);
        float v = square_keep * square[i] + square_weight * g * g;
        mean[i] = m;
        square[i] = v;
        weight[i] = weight[i] * decay - step_size * (m / (sqrtf(v) / root + eps));
    }
}
