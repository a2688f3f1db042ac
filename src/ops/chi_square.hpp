// Whether counts follow a distribution: for tests of what draws at random.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace fathom {

/// Pearson's test of `counts` against probabilities `p`. Fails at a chance of about 1e-6; cells in which
/// fewer than five draws are expected are put together. A cell of probability zero must stay empty.
inline void expect_follows(const std::vector<double>& counts, const std::vector<double>& p) {
  ASSERT_EQ(counts.size(), p.size());
  double draws = 0;
  for (const double count : counts) draws += count;
  double statistic = 0;
  double rest_counted = 0;
  double rest_expected = 0;
  int cells = 0;
  const auto add = [&](double counted, double expected) {
    statistic += (counted - expected) * (counted - expected) / expected;
    ++cells;
  };
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "cell " << i << " has probability 0";
    } else if (expected >= 5) {
      add(counts[i], expected);
    } else {
      rest_counted += counts[i];
      rest_expected += expected;
    }
  }
  if (rest_expected > 0) add(rest_counted, rest_expected);
  if (cells < 2) return;
  // Wilson and Hilferty: the cube root of chi-square over its degrees of freedom is nearly normal.
  const double freedom = cells - 1;
  constexpr double kDeviations = 4.75;
  const double root = 1 - 2 / (9 * freedom) + kDeviations * std::sqrt(2 / (9 * freedom));
  EXPECT_LT(statistic, freedom * root * root * root) << cells << " cells, " << draws << " draws";
}

}  // namespace fathom
