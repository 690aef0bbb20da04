# make run, make test and the rest set up what they need: on Debian they install
# it, elsewhere they say what is missing.
#
#? make run       boot the minimal hypervisor on Bochs
#? make test      run all tests, as processes and in ring 0 on Bochs
#? make linux     boot Debian's Linux on it, and have root in there attack it
#? make bench     count instructions in ring 0, time the rest (UPDATE=1: into docs/performance.md)
#? make bench-kvm count KVM's instructions beside this library's (UPDATE=1 as well)
#? make lint      check form: gofmt, go vet, staticcheck, modules, generated files
#? make cross     build for the other systems and processors
#? make check     lint, cross, run, a short linux, and test
#? make generate  make the generated files again
#? make setup     only install what the others need
#?
#? ARGS='...'          arguments of the program that make run boots; of scripts/linux.sh
#? VTXBOOTFLAGS='...'  flags for vtx boot, such as -cpu=tigerlake -stats
#? MODELS='...'        CPU models that make test runs on
#? VTX_OFFLINE=1       skip make linux where Debian's packages cannot be fetched

help:
	@sed -n 's/^#? \{0,1\}//p' Makefile

setup:
	@scripts/setup.sh 'to boot programs' bochs bochsbios vgabios
	@scripts/setup.sh 'for the tests' binutils gcc libc6-dev qemu-system-x86 seabios grub-common grub-pc-bin xorriso mtools

run:
	@scripts/run.sh $(ARGS)

test:
	@MODELS="$(MODELS)" scripts/test.sh

bench:
	@UPDATE="$(UPDATE)" scripts/bench.sh

bench-kvm:
	@UPDATE="$(UPDATE)" scripts/bench-kvm.sh $(ARGS)

linux:
	@scripts/linux.sh $(ARGS)

lint:
	@scripts/lint.sh

cross:
	@scripts/cross.sh

check:
	@$(MAKE) lint
	@$(MAKE) cross
	@$(MAKE) run
	@$(MAKE) linux ARGS='soak=2000 samples=4'
	@$(MAKE) test

generate:
	@scripts/setup.sh 'to assemble boot code' binutils
	go generate ./...

.PHONY: help setup run test bench bench-kvm linux lint cross check generate
