// SPDX-License-Identifier: MIT
// Adapter directories: PeftDirectory reads, PeftWriter writes.
#pragma once

#include "hydralora/io/peft_directory.hpp"
#include "hydralora/io/peft_writer.hpp"
