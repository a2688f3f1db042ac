// Keys and queries from their projections to what scoring and attention read, in one step. Every value has the bytes
// that the CPU ops give it one after the other: layer_norm or rms_norm, rope, hadamard, quantisation, store.
#pragma once
#include "layout/prepare.cuh"
#include "simt/cache.cuh"
#include "simt/norm.cuh"

namespace fathom::simt {

/// The first n of kEach neighbouring elements, then zeros; four at a time where they lie on as many.
template <int kEach>
__device__ __forceinline__ void load_run(float (&v)[kEach], const SimtRows& x, long long first, int n) {
  if constexpr (kEach % 4 == 0) {
    const unsigned long long address = reinterpret_cast<unsigned long long>(x.data) + (x.bf16 ? 2 : 4) * first;
    if (n == kEach && address % (x.bf16 ? 8 : 16) == 0) {
#pragma unroll
      for (int i = 0; i < kEach; i += 4) {
        if (x.bf16) {
          const uint2 bits = reinterpret_cast<const uint2*>(address)[i / 4];
          v[i] = __uint_as_float(bits.x << 16);
          v[i + 1] = __uint_as_float(bits.x & 0xffff0000u);
          v[i + 2] = __uint_as_float(bits.y << 16);
          v[i + 3] = __uint_as_float(bits.y & 0xffff0000u);
        } else {
          const float4 values = reinterpret_cast<const float4*>(address)[i / 4];
          v[i] = values.x;
          v[i + 1] = values.y;
          v[i + 2] = values.z;
          v[i + 3] = values.w;
        }
      }
      return;
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) v[i] = i < n ? load_element(x.data, x.bf16, first + i) : 0.0f;
}

/// The first n of four neighbouring elements; in one where they lie on as many.
__device__ __forceinline__ void store_run(const SimtRows& x, long long first, const float (&v)[4], int n) {
  const unsigned long long address = reinterpret_cast<unsigned long long>(x.data) + (x.bf16 ? 2 : 4) * first;
  if (n == 4 && address % (x.bf16 ? 8 : 16) == 0) {
    if (x.bf16) {
      *reinterpret_cast<uint2*>(address) = {float_to_bf16(v[0]) | static_cast<unsigned>(float_to_bf16(v[1])) << 16,
                                            float_to_bf16(v[2]) | static_cast<unsigned>(float_to_bf16(v[3])) << 16};
    } else {
      *reinterpret_cast<float4*>(address) = {v[0], v[1], v[2], v[3]};
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < n) store_element(x.data, x.bf16, first + i, v[i]);
  }
}

/// A row of a warp: lane l has its elements [kEach * l, kEach * l + count), and all of it passes through `shared`, room
/// for 32 * kEach floats, where lanes need the values of others.
template <int kEach>
struct WarpRow {
  float* shared;
  int dim;
  int begin;  // of this lane's elements
  int count;
  float v[kEach];

  __device__ WarpRow(float* room, int elements) : shared(room), dim(elements), begin(kEach * lane_id()) {
    // Not as a clamp of dim - begin: ptxas 13.0 takes the predicate of its VIMNMX for count == kEach later on, when the
    // register holds another, and lanes at the end of a row then store four codes.
    count = begin >= dim ? 0 : begin + kEach <= dim ? kEach : dim - begin;
  }
  __device__ __forceinline__ void load(const SimtRows& x, long long row) { load_run(v, x, row + begin, count); }

  /// All lanes see the row in `shared`.
  __device__ __forceinline__ void share() {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kEach; ++i) shared[begin + i] = v[i];
    __syncwarp();
  }

  /// The sum in the order of the norms; every lane gets it.
  template <class Add>
  __device__ __forceinline__ float sum(Add add) {
    share();
    float sum = 0;
    if (lane_id() < kNormLanes) sum = add_lanes(add_lane(0.0f, shared, dim, lane_id(), add));
    return __shfl_sync(~0u, sum, 0);
  }

  __device__ __forceinline__ void layer_norm(const SimtRows& weight, const SimtRows& bias, float epsilon) {
    const float mean = sum(AddValue{}) / static_cast<float>(dim);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] -= mean;
    const float scale = norm_scale(sum(AddSquare{}), dim, epsilon);
    float w[kEach];
    float b[kEach];
    load_run(w, weight, begin, count);
    load_run(b, bias, begin, count);
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] = __fmaf_rn(v[i] * scale, w[i], b[i]);
  }

  /// dim is a power of two; lanes beyond it have no part in what the others get.
  __device__ __forceinline__ void hadamard(float scale) {
#pragma unroll
    for (int half = 1; half < kEach; half *= 2) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if ((i & half) != 0) continue;
        const float a = v[i];
        const float b = v[i + half];
        v[i] = a + b;
        v[i + half] = a - b;
      }
    }
    for (int lanes = 1; lanes * kEach < dim; lanes *= 2) {
      const bool upper = (lane_id() & lanes) != 0;
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const float other = __shfl_xor_sync(~0u, v[i], lanes);
        v[i] = upper ? other - v[i] : v[i] + other;
      }
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i) v[i] *= scale;
  }

  /// Writes the codes and returns the scale.
  __device__ __forceinline__ float quantise(int ue8m0, unsigned char* to) {
    const float scale = ue8m0 ? scale_values<kIndexer, true>(v) : scale_values<kIndexer, false>(v);
    put_codes(to + begin, v, count);
    return scale;
  }
  __device__ __forceinline__ void store(float* to) const {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (i < count) to[begin + i] = v[i];
    }
  }
};

/// The rotation of a lane's elements of a WarpRow: every one becomes value * cos + partner * sin, where the sine of the
/// first of a pair is negative. That is a * cos - b * sin, rounded alike.
template <int kEach>
struct LaneRotation {
  int partner[kEach];  // -1: an element that stays
  float cos[kEach], sin[kEach];

  __device__ __forceinline__ void load(const SimtRotation& rotation, long long token, int begin) {
    const float* angles = angles_of(rotation, token);
    const int half = static_cast<int>(rotation.half);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int at = begin + i - static_cast<int>(rotation.offset);
      partner[i] = -1;
      cos[i] = sin[i] = 0;
      if (angles == nullptr || at < 0 || at >= 2 * half) continue;
      const bool second = rotation.interleaved ? at % 2 != 0 : at >= half;
      const int pair = rotation.interleaved ? at / 2 : second ? at - half : at;
      const int distance = rotation.interleaved ? 1 : half;
      partner[i] = begin + i + (second ? -distance : distance);
      cos[i] = angles[pair];
      sin[i] = second ? angles[half + pair] : -angles[half + pair];
    }
  }
  __device__ __forceinline__ void apply(WarpRow<kEach>& row) const {
    row.share();
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (partner[i] >= 0) row.v[i] = row.v[i] * cos[i] + row.shared[partner[i]] * sin[i];
    }
  }
};

/// A warp prepares and stores one key; those of a u8 cache fill its lanes.
template <int kEach, int kPage>
__device__ void index_key_prepare(const IndexKeyPrepareKernel& args) {
  __shared__ float rooms[kRowThreads / 32][32 * kEach];
  WarpRow<kEach> row(rooms[threadIdx.x / 32], args.dim);
  for_each_warp_task(args.tokens, [&](long long token) {
    const long long slot = integer_at(args.slots, token);
    if (slot < 0 || slot >= args.cache.pages * kPage) return;
    row.load(args.k, token * args.k.row);
    row.layer_norm(args.weight, args.bias, args.epsilon);
    LaneRotation<kEach> rotation;
    rotation.load(args.rotation, token, row.begin);
    rotation.apply(row);
    if (args.hadamard) row.hadamard(args.hadamard_scale);
    const long long page = slot / kPage;
    const int entry = static_cast<int>(slot % kPage);
    if (args.cache.f32) {
      row.store(index_key_f32(args.cache, page, entry));
      return;
    }
    const float scale = row.quantise(args.ue8m0, index_key<32 * kEach>(args.cache, page, entry));
    if (lane_id() == 0) store_word(index_scale<kPage, 32 * kEach>(args.cache, page, entry), __float_as_uint(scale));
  });
}

/// A row of a team of lanes, 16 values each: four runs of four neighbours, kSpan apart, so that a load of the team is
/// of neighbouring bytes. A warp has as many teams as fit.
template <int kLanes>
struct TeamRow {
  static constexpr int kSpan = 4 * kLanes;
  int dim;
  int begin;  // of this lane's first run
  float v[4][4];

  __device__ explicit TeamRow(int elements) : dim(elements), begin(4 * (lane_id() % kLanes)) {}

  /// Calls body(run, at, count) for the runs, with the number of their elements that there are.
  template <class Body>
  __device__ __forceinline__ void each_run(const Body& body) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = begin + j * kSpan;
      body(v[j], at, at >= dim ? 0 : at + 4 <= dim ? 4 : dim - at);
    }
  }
  __device__ __forceinline__ void load(const SimtRows& x, long long row) {
    each_run([&](float(&run)[4], int at, int count) { load_run(run, x, row + at, count); });
  }
  __device__ __forceinline__ void zero() {
    each_run([](float(&run)[4], int, int) {
#pragma unroll
      for (int i = 0; i < 4; ++i) run[i] = 0;
    });
  }

  static __device__ __forceinline__ void rotate(float (&a)[4], float (&b)[4], const float4& cos, const float4& sin) {
    const float c[4] = {cos.x, cos.y, cos.z, cos.w};
    const float s[4] = {sin.x, sin.y, sin.z, sin.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first = a[i];
      a[i] = first * c[i] - b[i] * s[i];
      b[i] = b[i] * c[i] + first * s[i];
    }
  }
  /// `room` has as many floats as the row. All lanes of the warp take part.
  __device__ __forceinline__ void rotate(const SimtRotation& rotation, const float* angles, float* room) {
    if (angles == nullptr) return;
    const int half = static_cast<int>(rotation.half);
    const int offset = static_cast<int>(rotation.offset);
    const auto* wide = reinterpret_cast<const float4*>(angles);
    if (!rotation.interleaved && half == kSpan && offset % (2 * kSpan) == 0 &&
        reinterpret_cast<unsigned long long>(wide) % 16 == 0) {  // the pairs are in neighbouring runs
      const float4 cos = __ldg(wide + begin / 4);
      const float4 sin = __ldg(wide + (half + begin) / 4);
      if (offset == 0) {
        rotate(v[0], v[1], cos, sin);
      } else {
        rotate(v[2], v[3], cos, sin);
      }
      return;
    }
    __syncwarp();
    each_run([&](const float(&run)[4], int at, int) {
#pragma unroll
      for (int i = 0; i < 4; ++i) room[at + i] = run[i];
    });
    __syncwarp();
    rotate_pairs(
        rotation, angles, lane_id() % kLanes, kLanes, [&](long long i) { return room[i]; },
        [&](long long i, float value) { room[i] = value; });
    __syncwarp();
    each_run([&](float(&run)[4], int at, int) {
#pragma unroll
      for (int i = 0; i < 4; ++i) run[i] = room[at + i];
    });
  }

  /// dim is a power of two; lanes beyond it have no part in what the others get.
  __device__ __forceinline__ void hadamard(float scale) {
#pragma unroll
    for (int half = 1; half < 4; half *= 2) {
      if (half >= dim) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if ((i & half) == 0) add_and_subtract(v[j][i], v[j][i + half]);
        }
      }
    }
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) {
      if (4 * lanes >= dim) continue;
      const float sign = (lane_id() & lanes) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[j][i] = __fmaf_rn(sign, v[j][i], __shfl_xor_sync(~0u, v[j][i], lanes));
      }
    }
#pragma unroll
    for (int runs = 1; runs < 4; runs *= 2) {
      if (runs * kSpan >= dim) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if ((j & runs) == 0) add_and_subtract(v[j][i], v[j + runs][i]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[j][i] *= scale;
    }
  }
  static __device__ __forceinline__ void add_and_subtract(float& a, float& b) {
    const float first = a;
    a = first + b;
    b = first - b;
  }

  /// Writes the codes, if there is a row, and returns the scale.
  template <bool kUe8m0>
  __device__ __forceinline__ float quantise(unsigned char* to, bool active) {
    float amax = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) amax = fmaxf(amax, fabsf(v[j][i]));  // NaN does not count
    }
#pragma unroll
    for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) amax = fmaxf(amax, __shfl_xor_sync(~0u, amax, lanes));
    const GroupScale group = group_scale<kIndexer, kUe8m0>(amax);
    const Divisor divisor(group.scale);
    each_run([&](float(&run)[4], int at, int count) {
#pragma unroll
      for (int i = 0; i < 4; ++i) run[i] = kUe8m0 ? run[i] * group.factor : divisor.divide(run[i]);
      put_codes(to + at, run, active ? count : 0);
    });
    return group.scale;
  }
  __device__ __forceinline__ void store(float* to) {
    each_run([&](const float(&run)[4], int at, int count) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i < count) to[at + i] = run[i];
      }
    });
  }
};

/// A warp prepares as many heads of one token as it has teams.
template <int kEach>
__device__ void index_query_prepare(const IndexQueryPrepareKernel& args) {
  constexpr int kTeams = query_heads_of_a_warp(kEach);
  constexpr int kLanes = 32 / kTeams;
  __shared__ float rooms[kRowThreads / kLanes][16 * kLanes];
  TeamRow<kLanes> row(args.dim);
  const long long parts = (args.heads + kTeams - 1) / kTeams;
  for_each_warp_task(args.tokens * parts, [&](long long task) {
    const Quotient place = divide(task, parts);
    const long long token = place.quotient;
    const long long head = place.rest * kTeams + lane_id() / kLanes;
    const bool active = head < args.heads;  // all lanes take part in the shuffles
    const bool leads = active && lane_id() % kLanes == 0;
    float gate = 0;
    if (active) {
      row.load(args.q, token * args.q.row + head * args.q.head);
      if (leads && args.gate != nullptr) gate = args.gate[token * args.gate_row + head];
    } else {
      row.zero();
    }
    row.rotate(args.rotation, angles_of(args.rotation, token), rooms[threadIdx.x / kLanes]);
    if (args.hadamard) row.hadamard(args.hadamard_scale);
    const long long to = token * args.out_row + head * args.out_head;
    float factor = args.gate_factor;
    if (args.quantised) {
      auto* out = static_cast<unsigned char*>(args.out) + to;
      const float scale =
          args.ue8m0 ? row.template quantise<true>(out, active) : row.template quantise<false>(out, active);
      if (args.scale != nullptr && leads) args.scale[token * args.scale_row + head] = scale;
      factor *= scale;
    } else if (active) {
      row.store(static_cast<float*>(args.out) + to);
    }
    if (args.gate != nullptr && leads) args.gate[token * args.gate_row + head] = gate * factor;
  });
}

/// A block normalises and stores the latent of one token, and rotates its key.
__device__ __forceinline__ void mla_key_prepare(const MlaPrepareKernel& args, long long token, long long slot,
                                                float* chunk) {
  const long long row = token * args.latent.row;
  const auto x = [&](long long i) { return load_element(args.latent.data, args.latent.bf16, row + i); };
  const float scale = lane_sum<kLatentChunk>(args.lora, chunk, x, AddSquare{}, [&](float sum) {
    return norm_scale(sum, args.lora, args.epsilon);
  });
  const bool quantised = args.element == 1;
  const long long groups = (args.lora + 127) / 128;
  unsigned char* entry = static_cast<unsigned char*>(args.cache) + slot * args.cache_row * args.element;
  for (long long group = threadIdx.x / 32; group < groups; group += kRowThreads / 32) {
    const long long begin = 128 * group + 4 * lane_id();
    const int count = static_cast<int>(args.lora - begin < 0 ? 0 : args.lora - begin < 4 ? args.lora - begin : 4);
    float v[4];
    float w[4];
    load_run(v, args.latent, row + begin, count);
    load_run(w, args.weight, begin, count);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = v[i] * scale * w[i];
    if (quantised) {
      const float group_scale = scale_values<kKvCache, false>(v);
      put_codes(entry + begin, v);
      if (lane_id() == 0) store_word(entry + args.lora + 4 * group, __float_as_uint(group_scale));
      continue;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) put_in_cache(entry, args.element, begin + i, v[i]);
    }
  }
  unsigned char* rope = entry + args.lora * args.element + (quantised ? 4 * groups : 0);
  const int element = quantised ? 2 : args.element;
  const float* cos = angles_of(args.rotation, token);
  if (cos == nullptr) {
    if (threadIdx.x < 32) copy_to_cache(args.rope, token, 0, args.rope_dim, rope, element);
    return;
  }
  const long long from = token * args.rope.row;
  rotate_pairs(
      args.rotation, cos, static_cast<int>(threadIdx.x), kRowThreads,
      [&](long long i) { return load_element(args.rope.data, args.rope.bf16, from + i); },
      [&](long long i, float value) { put_in_cache(rope, element, i, value); });
}

/// Four pairs of one head of one token.
__device__ __forceinline__ void mla_query_prepare(const MlaPrepareKernel& args, long long token, const float* angles,
                                                  int head, int part) {
  const int half = static_cast<int>(args.rotation.half);
  const int begin = kMlaPairs * part;
  const int pairs = half - begin < kMlaPairs ? half - begin : kMlaPairs;
  // Interleaved: eight neighbours; else four, and their partners.
  const bool interleaved = args.rotation.interleaved != 0;
  const int first = interleaved ? 2 * begin : begin;
  const int second = interleaved ? first + kMlaPairs : half + begin;
  const int first_count = !interleaved || 2 * pairs > kMlaPairs ? (interleaved ? kMlaPairs : pairs) : 2 * pairs;
  const int second_count = interleaved ? 2 * pairs - first_count : pairs;
  const long long from = token * args.q.row + head * args.q.head;
  const long long to = token * args.q_out.row + head * args.q_out.head;
  float a[kMlaPairs], b[kMlaPairs];
  load_run(a, args.q, from + first, first_count);
  load_run(b, args.q, from + second, second_count);
  if (angles != nullptr) {
    const SimtRows table{const_cast<float*>(angles), 0, 0, 0};
    float cos[kMlaPairs], sin[kMlaPairs];
    load_run(cos, table, begin, pairs);
    load_run(sin, table, half + begin, pairs);
    const auto rotate = [](float& x, float& y, float c, float s) {
      const float before = x;
      x = before * c - y * s;
      y = y * c + before * s;
    };
    if (interleaved) {
#pragma unroll
      for (int i = 0; i < kMlaPairs / 2; ++i) {
        rotate(a[2 * i], a[2 * i + 1], cos[i], sin[i]);
        rotate(b[2 * i], b[2 * i + 1], cos[i + kMlaPairs / 2], sin[i + kMlaPairs / 2]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kMlaPairs; ++i) rotate(a[i], b[i], cos[i], sin[i]);
    }
  }
  store_run(args.q_out, to + first, a, first_count);
  store_run(args.q_out, to + second, b, second_count);
}

/// A block has the key of a token, or some heads of its queries.
__device__ inline void mla_prepare(const MlaPrepareKernel& args) {
  __shared__ float chunk[kLatentChunk];
  const int parts = mla_parts(args.rotation.half);
  const int tasks = static_cast<int>(args.heads) * parts;
  const int blocks = mla_blocks(args.heads, args.rotation.half);
  for (long long block = blockIdx.x; block < args.tokens * blocks; block += gridDim.x) {
    const Quotient place = divide(block, blocks);
    const long long token = place.quotient;
    if (place.rest == 0) {
      const long long slot = integer_at(args.slots, token);
      if (slot >= 0 && slot < args.cache_rows) mla_key_prepare(args, token, slot, chunk);
      continue;
    }
    const float* angles = angles_of(args.rotation, token);
    const int task = static_cast<int>(place.rest - 1) * kRowThreads + static_cast<int>(threadIdx.x);
    if (task < tasks) mla_query_prepare(args, token, angles, task / parts, task % parts);
  }
}

}  // namespace fathom::simt
