// What a Session holds, and the prefill that all its functions share.
#pragma once
#include <functional>
#include <memory>
#include <span>

#include "engine/cache/batch_metadata.hpp"
#include "engine/model/runner.hpp"
#include "fathom/engine/session.hpp"

namespace fathom {

struct Session::Impl {
  Impl(const Model& model, const Context& context, const SessionOptions& options);

  /// A sequence of the cache, removed at the end of its scope.
  class Sequence {
   public:
    explicit Sequence(KvCache& cache) : cache_(cache), id_(cache.add_sequence()) {}
    ~Sequence() { cache_.remove_sequence(id_); }
    Sequence(const Sequence&) = delete;
    Sequence& operator=(const Sequence&) = delete;
    SequenceId id() const { return id_; }

   private:
    KvCache& cache_;
    SequenceId id_;
  };

  /// Throws InvalidArgument unless 0 < ids <= max_position_embeddings and every id is in the vocabulary.
  void check_ids(std::string_view what, std::span<const std::int32_t> ids) const;
  /// A cache that holds at least this many tokens of one sequence.
  KvCache& cache_for(std::int64_t tokens);
  /// One step of the main model for one sequence, behind `prefix` tokens. Returns the hidden states
  /// [tokens, hidden]: rows 1, 2, .. of `states`, whose row 0 is the caller's.
  TensorView step(ForwardMode mode, SequenceId sequence, std::int64_t prefix,
                  std::span<const std::int32_t> tokens);
  /// Feeds ids chunk by chunk; `consume` gets the position of a chunk's first token and its hidden states.
  /// Stops, returning false, if `cancel` becomes true.
  bool prefill(SequenceId sequence, std::span<const std::int32_t> ids, const ProgressCallback& on_progress,
               const std::atomic<bool>* cancel,
               const std::function<void(std::int64_t, const TensorView&)>& consume);
  /// Views of the session's own memory.
  TensorView states(std::int64_t begin, std::int64_t end) const;
  TensorView logits(std::int64_t rows);

  const Model& model;
  const Context& context;
  SessionOptions options;
  Runner runner;
  std::unique_ptr<KvCache> cache;
  BatchMetadata batch;
  Buffer state_memory;  // [1 + most tokens of a step, hidden] f32
  Buffer logit_memory;  // [rows, vocab] f32
};

}  // namespace fathom
