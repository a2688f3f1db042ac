// DraftLength: how many drafts are worth their time.
#pragma once
#include <cstdint>

namespace fathom {

/// A draft and its row of the verification cost about three quarters of a plain step on a CPU, so only drafts
/// that are likely to be accepted pay. Decides from probabilities and verdicts alone, never from times: what
/// a seed gives does not depend on how fast a machine is.
class DraftLength {
 public:
  DraftLength(std::int64_t most, bool adaptive) : most_(most), adaptive_(adaptive) {}

  /// The next step's drafts at most; 0 while drafting rests.
  std::int64_t next() { return resting_ > 0 ? (--resting_, 0) : most_; }
  /// Behind a draft less probable than this no other one is made: of the bundled model's second drafts 93 of
  /// 100 are accepted behind a first one of at least one half, 71 behind others.
  float least() const { return adaptive_ ? 0.5f : 0.0f; }
  /// What verification said of a step's drafts.
  void learn(std::int64_t proposed, std::int64_t accepted) {
    if (!adaptive_ || proposed == 0) return;
    hits_ += ((accepted > 0 ? 1.0f : 0.0f) - hits_) / kMemory;
    if (hits_ >= kLeastHits) return;
    hits_ = kLeastHits;  // so that after the rest a few drafts decide
    resting_ = kRest;
  }

 private:
  static constexpr float kMemory = 8;  // steps
  static constexpr float kLeastHits = 0.6f;
  static constexpr std::int64_t kRest = 8;  // steps

  std::int64_t most_;
  bool adaptive_;
  float hits_ = 1;  // the share of first drafts that were accepted of late
  std::int64_t resting_ = 0;
};

}  // namespace fathom
