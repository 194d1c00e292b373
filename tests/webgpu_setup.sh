#!/usr/bin/env bash
# Fetches what tests/webgpu.rs needs on Debian for x86-64 without a GPU, and prints the variables to set:
#   eval "$(tests/webgpu_setup.sh FOLDER)" && cargo test --test webgpu -- --nocapture
# - ONNX Runtime with the WebGPU provider built in, from the npm package onnxruntime-node;
# - SwiftShader, a Vulkan that computes on the CPU, and the loader of Vulkan, both from the package chromium-common.
# npm, apt-get and dpkg-deb have to be there; nothing is installed, everything lies in FOLDER (200 MB while it is fetched).
set -euo pipefail
VERSION=1.30.0
FOLDER=${1:?usage: webgpu_setup.sh FOLDER}
mkdir -p "$FOLDER"
cd "$FOLDER"
FOLDER=$PWD

if [ ! -e libonnxruntime.so.1 ]; then
    npm pack --silent "onnxruntime-node@$VERSION" >&2
    inside=package/bin/napi-v6/linux/x64/libonnxruntime.so.1
    tar -xzf "onnxruntime-node-$VERSION.tgz" "$inside"
    mv "$inside" .
    rm -r package "onnxruntime-node-$VERSION.tgz"
fi
if [ ! -e vk_swiftshader_icd.json ]; then
    apt-get download -q chromium-common >&2
    dpkg-deb -x chromium-common_*.deb unpacked
    # ONNX Runtime looks for the loader beside itself, the loader for the driver beside its description.
    (cd unpacked/usr/lib/chromium && mv libvulkan.so.1 libvk_swiftshader.so vk_swiftshader_icd.json "$FOLDER")
    rm -r unpacked chromium-common_*.deb
fi
# The loader asks for a folder of this user, and only looks whether it is there.
cat <<VARIABLES
export GENAI_BUILD_WEBGPU_ORT_LIB='$FOLDER/libonnxruntime.so.1'
export VK_ICD_FILENAMES='$FOLDER/vk_swiftshader_icd.json'
export XDG_RUNTIME_DIR='${XDG_RUNTIME_DIR:-$FOLDER}'
VARIABLES
