// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

namespace support {

/// What std::invalid_argument says when f runs; "nothing thrown" where it does not come.
template <class Function>
std::string message_of(Function&& f) {
  try {
    f();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing thrown";
}

}  // namespace support
