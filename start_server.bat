@echo off
rem Starts the service as the README says. Flags are passed on: start_server.bat --mode production
cd /d "%~dp0"
go run ./cmd/tandem serve %*
