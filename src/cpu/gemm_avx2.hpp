// e4m3 weights of few rows on AVX2: the next group becomes f16 in L1 between the products of the one before,
// so that conversion, multiplication and the way from memory overlap. Part of gemm_simd.cpp.

/// 32 codes as f16 through kF8Unit, those of even places first. NaN as F8ToHalf.
template <bool kNan>
HWY_INLINE void SplitToHalves(const std::uint8_t* codes, hwy::float16_t* to) {
  const hn::Full256<std::int16_t> d;
  const hn::Full256<hwy::float16_t> df;
  const auto x = hn::BitCast(d, hn::LoadU(hn::Full256<std::uint8_t>(), codes));
  // Signed codes times 128: the same as a shift of the sign-extended code.
  const auto even = hn::Vec<decltype(d)>{_mm256_maddubs_epi16(hn::Set(d, 0x0080).raw, x.raw)};
  const auto odd = hn::ShiftRight<1>(x);
  hn::Store(HalfOf<kNan>(even), df, to);
  hn::Store(HalfOf<kNan>(odd), df, to + 16);
}

/// Stages one group of kColumnBlock columns.
class CodeStage {
 public:
  /// Columns from `columns` on repeat the last one.
  CodeStage(const std::uint8_t* codes, std::int64_t stride, std::int64_t columns, CodeLines ahead,
            hwy::float16_t* to)
      : codes_(codes), stride_(stride), columns_(columns), ahead_(ahead), to_(to), from_(codes), at_(to) {}

  /// A quarter of the present column.
  template <int kQuarter>
  HWY_INLINE void Quarter() {
    const auto x = hn::LoadU(hn::Full256<std::uint8_t>(), from_ + kQuarter * 32);
    largest_ = hn::Max(largest_, x);
    largest_signed_ = hn::Max(largest_signed_, hn::BitCast(hn::Full256<std::int8_t>(), x));
    SplitToHalves<false>(from_ + kQuarter * 32, at_ + kQuarter * 32);
    if (kQuarter % 2 == 0) hwy::Prefetch(ahead_.rows + kQuarter * 32);
  }
  HWY_INLINE void NextColumn() {
    at_ += kScaleGroup;
    ahead_.rows += ahead_.stride;
    if (--columns_ > 0) from_ += stride_;
  }
  /// After the last column.
  HWY_INLINE void End() const {
    const hn::Full256<std::uint8_t> du;
    const auto nan = hn::RebindMask(du, hn::Eq(largest_signed_, hn::Set(hn::Full256<std::int8_t>(), 0x7f)));
    if (HWY_LIKELY(hn::AllFalse(du, hn::Or(hn::Eq(largest_, hn::Set(du, 0xff)), nan)))) return;
    MakeNan(codes_, stride_, from_, to_);
  }
  void All() const {
    CodeStage stage = *this;  // in registers
    for (std::int64_t c = 0; c < kColumnBlock; ++c) {
      stage.Quarter<0>();
      stage.Quarter<1>();
      stage.Quarter<2>();
      stage.Quarter<3>();
      stage.NextColumn();
    }
    stage.End();
  }

 private:
  // Not a member's: the object would have to be in memory.
  static HWY_NOINLINE void MakeNan(const std::uint8_t* from, std::int64_t stride, const std::uint8_t* last,
                                   hwy::float16_t* to) {
    for (std::int64_t c = 0; c < kColumnBlock; ++c, to += kScaleGroup) {
      for (std::int64_t k = 0; k < kScaleGroup; k += 32) SplitToHalves<true>(from + k, to + k);
      if (from != last) from += stride;
    }
  }

  const std::uint8_t* codes_;
  std::int64_t stride_, columns_;
  CodeLines ahead_;
  hwy::float16_t* to_;
  const std::uint8_t* from_;
  hwy::float16_t* at_;
  hn::Vec<hn::Full256<std::uint8_t>> largest_ = hn::Zero(hn::Full256<std::uint8_t>());  // 0xff if one is NaN
  hn::Vec<hn::Full256<std::int8_t>> largest_signed_ =
      hn::Zero(hn::Full256<std::int8_t>());  // 0x7f if one is NaN
};

/// Adds the group at `b` to the totals of kRows x kColumnBlock elements as Tile does; `next` is staged
/// meanwhile.
template <std::int64_t kRows, bool kNext>
HWY_NOINLINE void AddGroup(const float* HWY_RESTRICT a, const float* HWY_RESTRICT a_scale,
                           const hwy::float16_t* HWY_RESTRICT b, const float* HWY_RESTRICT b_scale,
                           float* HWY_RESTRICT totals, const CodeStage& next) {
  const Tag d;
  constexpr std::int64_t kLanes = 8;
  constexpr std::int64_t kColumns = tile_columns(kRows);
  constexpr std::int64_t kSteps = 2 * kColumnBlock / kColumns;  // of k for every staged column
  CodeStage stage = next;
  for (std::int64_t first = 0; first < kColumnBlock; first += kColumns) {
    Vector sums[kRows][kColumns];
#pragma GCC unroll 8
    for (auto& row : sums) {
#pragma GCC unroll 8
      for (auto& sum : row) sum = hn::Zero(d);
    }
    for (std::int64_t k = 0; k < kScaleGroup; k += kSteps * kLanes) {
#pragma GCC unroll 8
      for (std::int64_t step = 0; step < kSteps; ++step) {
        const std::int64_t i = k + step * kLanes;
#pragma GCC unroll 8
        for (std::int64_t c = 0; c < kColumns; ++c) {
          const auto weights = LoadWeights(d, b + c * kScaleGroup + i);
#pragma GCC unroll 8
          for (std::int64_t r = 0; r < kRows; ++r)
            sums[r][c] = hn::MulAdd(hn::Load(d, a + r * kScaleGroup + i), weights, sums[r][c]);
        }
        if (!kNext) continue;
        if (step == 0) stage.Quarter<0>();
        if (step == kSteps / 4) stage.Quarter<1>();
        if (step == kSteps / 2) stage.Quarter<2>();
        if (step == kSteps * 3 / 4) stage.Quarter<3>();
      }
      if (kNext) stage.NextColumn();
    }
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (std::int64_t c = 0; c < kColumns; ++c) {
        float* total = totals + (r * kColumnBlock + first + c) * kLanes;
        const auto scale = hn::Mul(hn::Set(d, a_scale[r]), hn::Set(d, b_scale[first + c]));
        hn::Store(hn::MulAdd(sums[r][c], scale, hn::Load(d, total)), d, total);
      }
    }
    b += kColumns * kScaleGroup;
  }
  if (kNext) stage.End();
}
