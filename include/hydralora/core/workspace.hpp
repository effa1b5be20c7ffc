// SPDX-License-Identifier: MIT
// Scratch memory: one buffer per thread, which grows as calls need it and is reused. The library's only global.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "hydralora/core/aligned.hpp"
#include "hydralora/core/config.hpp"
#include "hydralora/core/expects.hpp"
#include "hydralora/core/tokens.hpp"

namespace hydralora {
inline namespace HYDRALORA_BUILD {
namespace detail {

/// Blocks of memory in stack order. While frames are open it only adds blocks, so addresses stay valid. Once all are
/// closed, several blocks become one that is large enough for all, so a repeated call allocates nothing.
class Workspace {
 public:
  static constexpr std::size_t alignment = memory_alignment;

  struct Position {
    std::size_t block, offset;
  };

  Position open() {
    if (open_frames_ == 0 && blocks_.size() > 1) {
      std::size_t total = 0;
      for (const Block& block : blocks_) total += block.size;
      blocks_.clear();
      add_block(total);
    }
    ++open_frames_;
    return top_;
  }
  void close(Position position) {
    --open_frames_;
    top_ = position;
  }
  void* take(std::size_t bytes) {
    bytes = (bytes + alignment - 1) / alignment * alignment;
    if (blocks_.empty()) add_block(bytes);
    while (blocks_[top_.block].size - top_.offset < bytes) {
      if (top_.block + 1 == blocks_.size()) add_block(bytes);
      top_ = {top_.block + 1, 0};
    }
    std::byte* result = blocks_[top_.block].memory.get() + top_.offset;
    top_.offset += bytes;
    return result;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t(alignment)); }
  };
  struct Block {
    std::unique_ptr<std::byte, Free> memory;
    std::size_t size;
  };

  void add_block(std::size_t bytes) {
    std::unique_ptr<std::byte, Free> memory(
        static_cast<std::byte*>(::operator new(bytes, std::align_val_t(alignment))));
    blocks_.push_back({std::move(memory), bytes});
  }

  std::vector<Block> blocks_;
  Position top_{0, 0};
  std::size_t open_frames_ = 0;
};

inline Workspace& thread_workspace() {
  thread_local Workspace workspace;
  return workspace;
}

}  // namespace detail

/// Scratch memory for a scope, from the calling thread's buffer: uninitialised, 64-byte aligned, valid until the frame
/// ends. Frames nest like scopes. Other threads may use the memory. Throws std::bad_alloc if the buffer cannot grow.
class ScratchFrame {
 public:
  ScratchFrame() = default;
  ~ScratchFrame() {
    if (workspace_ != nullptr) workspace_->close(position_);
  }
  ScratchFrame(const ScratchFrame&) = delete;
  ScratchFrame& operator=(const ScratchFrame&) = delete;

  template <class Scalar>
  Scalar* take(Index count) {
    const Index bytes = checked_product(count, static_cast<Index>(sizeof(Scalar)), "scratch memory");
    if (workspace_ == nullptr) {  // a frame that takes nothing costs nothing
      workspace_ = &detail::thread_workspace();
      position_ = workspace_->open();
    }
    return static_cast<Scalar*>(workspace_->take(static_cast<std::size_t>(bytes)));
  }

  /// A features × tokens matrix with contiguous columns.
  template <class Scalar>
  Tokens<Scalar> take_tokens(Index features, Index tokens) {
    return {take<Scalar>(checked_product(features, tokens, "scratch memory")), features, tokens};
  }

 private:
  detail::Workspace* workspace_ = nullptr;
  detail::Workspace::Position position_{0, 0};
};

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
