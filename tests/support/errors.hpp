// SPDX-License-Identifier: MIT
#pragma once

#include <stdexcept>
#include <string>

namespace support {

/// What std::invalid_argument says when f runs; "nothing thrown" where it does not come.
template <class Error = std::invalid_argument, class Function = void>
std::string message_of(Function&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

}  // namespace support
